// Products of float32 rows with packed float32 weights, for one instruction level: included by
// float32_<level>.cpp, which defines LANES (floats in a register), ROWS and VECTORS (the register tile) and the
// name of its namespace.
//
// Numbers are four times as wide as in the quantised schemes, so inputs are met in stretches (Goto & van de Geijn
// 2008): a stretch of a block of rows stays in the second cache, a stretch of a panel in the first, and the sums
// wait in the result meanwhile. Within a stretch a sum is one chain of fused multiplications and additions, and
// stretches are added in their order: a row gets the same bits wherever it stands.
//
// Layout of weights: panels of [in][PANEL], inputs filled up to whole lines with zeros, outputs to whole panels.
#pragma once

#include <string.h>

#include "matmul_job.h"
#include "matmul_vectors.h"
#include "scratch.h"
#include "threads.h"

namespace {

constexpr long LINE = 16;               // inputs of a row that lie together in a packed block
constexpr long STRETCH = 384;           // most inputs of a stretch; a multiple of LINE
constexpr long PACKED = 3 * STRETCH;     // most inputs of a block of rows that are packed at a time
constexpr long PACKED_FLOATS = 112 << 10;  // of a block of rows, which stay in the second cache
constexpr long BLOCK = ROWS * (196 / ROWS);       // most rows of a block
constexpr long BOTH_BLOCK = ROWS * (210 / ROWS);  // the same through two layers
constexpr long BETWEEN_FLOATS = 1200 << 10;       // what lies between two layers, for a block of rows: in the third cache
constexpr long LEAST_BLOCK = 6 * ROWS;            // rows that are worth passing all weights
constexpr long AHEAD = 4;               // steps that a tile brings its own weights ahead
constexpr long FEW = 2;                 // tiles that do not bring a whole panel in time
constexpr long LEAST_COLUMNS = 4;       // panels that are worth packing rows for

// What follows a tile's sums. Null bias: a later stretch follows.
struct Ends {
    bool goes_on;       // the sums of earlier stretches are in the result
    const float* bias;  // (PANEL,)
    bool gelu;
    const float* residual;  // or null
    long residual_step;
    const float* ahead;  // weights that are needed soon, and how many lines of them come nearer with each step
    int lines;
};

template <int M>
inline void tile(const float* a, const float* w, long inputs, float* y, long y_step, const Ends& ends) {
    Floats sum[M][VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) sum[i][j] = (Floats){};
    const float* ahead = ends.ahead;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < VECTORS * LANES; j += LINE) __builtin_prefetch(y + i * y_step + j, 1, 3);
    for (long k = 0; k < inputs; k += LINE) {
        for (int l = 0; l < ends.lines; l++) __builtin_prefetch(ahead + l * LINE, 0, 2);
        ahead += ends.lines * LINE;
#pragma GCC unroll 16
        for (int l = 0; l < LINE; l++) {
            Floats right[VECTORS];
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) right[j] = load(w + l * PANEL + j * LANES);
#pragma GCC unroll 16
            for (int i = 0; i < M; i++) {
                const Floats left = all(a[i * LINE + l]);
#pragma GCC unroll 8
                for (int j = 0; j < VECTORS; j++) sum[i][j] = fused(left, right[j], sum[i][j]);
            }
        }
        a += ROWS * LINE;
        w += LINE * PANEL;
    }
    if (ends.goes_on)
#pragma GCC unroll 16
        for (int i = 0; i < M; i++)
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) sum[i][j] += load(y + i * y_step + j * LANES);
    if (ends.bias == nullptr) {
#pragma GCC unroll 16
        for (int i = 0; i < M; i++)
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) store(y + i * y_step + j * LANES, sum[i][j]);
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) {
            Floats value = sum[i][j] + load(ends.bias + j * LANES);
            if (ends.residual != nullptr && !ends.gelu) value += load(ends.residual + i * ends.residual_step + j * LANES);
            store(y + i * y_step + j * LANES, value);
        }
    if (!ends.gelu) return;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < VECTORS; j++) {
            float* place = y + i * y_step + j * LANES;
            Floats value = gelu(load(place));
            if (ends.residual != nullptr) value += load(ends.residual + i * ends.residual_step + j * LANES);
            store(place, value);
        }
}

template <int M>
void tile_of(long rows, const float* a, const float* w, long inputs, float* y, long y_step, const Ends& ends) {
    if (rows == M) return tile<M>(a, w, inputs, y, y_step, ends);
    if constexpr (M > 1) tile_of<M - 1>(rows, a, w, inputs, y, y_step, ends);
}

// Some rows of one panel, over one stretch.
inline void panel_of(long rows, const float* packed, long tile_floats, const float* w, long inputs, float* y, long y_step,
                     const Ends& ends) {
    for (long r = 0; r < rows; r += ROWS)
        for (int j = 0; j < PANEL; j += VECTORS * LANES) {
            Ends here = ends;
            if (here.bias != nullptr) here.bias += j;
            if (here.residual != nullptr) here.residual += r * here.residual_step + j;
            // Of few tiles, the first brings its own a little ahead.
            const bool own = r == 0 && j == 0 && rows <= FEW * ROWS;
            if (own) here.lines = PANEL;
            if (own) here.ahead = w + AHEAD * LINE * PANEL;
            else here.ahead += (r / ROWS * (PANEL / (VECTORS * LANES)) + j / (VECTORS * LANES)) * inputs * ends.lines;
            // What a tile adds to, writes and reads at its end: rows of a panel lie apart, where the processor foresees
            // nothing.
            const long some = rows - r < ROWS ? rows - r : ROWS;
            for (long i = 0; i < some; i++)
                for (int line = 0; line < VECTORS * LANES; line += LINE) {
                    __builtin_prefetch(y + (r + i) * y_step + j + line, 1, 3);
                    if (here.residual != nullptr) __builtin_prefetch(here.residual + i * here.residual_step + line, 0, 3);
                }
            tile_of<ROWS>(some, packed + r / ROWS * tile_floats, w + j, inputs,
                          y + r * y_step + j, y_step, here);
        }
}

// A stretch of rows: tiles of [inputs / LINE][ROWS][LINE], zeros behind the last input.
inline void pack(const float* x, long x_step, long rows, long inputs, long filled, float* to) {
    const long whole = inputs / LINE;
    for (long r = 0; r < rows; r++) {
        const float* row = x + r * x_step;
        float* place = to + r / ROWS * filled * ROWS + r % ROWS * LINE;
        for (long c = 0; c < whole; c++)
#pragma GCC unroll 4
            for (long k = 0; k < LINE; k += LANES) store(place + c * ROWS * LINE + k, load(row + c * LINE + k));
        for (long k = whole * LINE; k < filled; k++)
            place[whole * ROWS * LINE + k % LINE] = k < inputs ? row[k] : 0.0f;
    }
}

// One layer cut into blocks of rows and runs of panels, which threads take.
struct Work {
    MatmulJob* job;
    const Layer* layer;
    const float* x;
    long x_step;
    float* y;
    long y_step;
    const float* residual;
    long residual_step;
    Blocks blocks;
    long run, runs, taken;
};

// How the inputs of a layer are met: so many in a stretch, so many packed at a time. One layer is packed deep, so that
// its result, which lies in memory, is met seldom. Of two layers, blocks are packed flat and are high: between them all
// weights pass by for each block, from memory, while results are near.
struct Portions {
    long stretch, packed, block;

    Portions(long in, bool both) {
        stretch = divided_up(divided_up(in, divided_up(in, STRETCH)), LINE) * LINE;
        packed = both ? stretch : divided_up(divided_up(in, divided_up(in, PACKED)), stretch) * stretch;
        block = both ? BOTH_BLOCK : BLOCK;
    }

    // Most rows of a block.
    long rows() const {
        const long fit = PACKED_FLOATS / packed / ROWS * ROWS;
        return fit < ROWS ? ROWS : fit < block ? fit : block;
    }

    // Scratch of a block: its packed inputs, and the result of a panel that is not full.
    long floats(long rows) const { return divided_up(rows, ROWS) * ROWS * (packed + PANEL); }
};

void multiply(const Work& work, const Portions& portions, long first_row, long rows, long first_panel, long panels,
              float* scratch) {
    const Layer& layer = *work.layer;
    const long panel_floats = divided_up(layer.in, LINE) * LINE * PANEL;
    float* partial = scratch + divided_up(rows, ROWS) * ROWS * portions.packed;
    // Tiles of one panel share the work of bringing what comes next.
    const int lines = static_cast<int>(divided_up(PANEL, divided_up(rows, ROWS) * (PANEL / (VECTORS * LANES))));
    for (long begin = 0; begin < layer.in; begin += portions.packed) {
        const long inputs = layer.in - begin < portions.packed ? layer.in - begin : portions.packed;
        const long filled = divided_up(inputs, LINE) * LINE;
        pack(work.x + first_row * work.x_step + begin, work.x_step, rows, inputs, filled, scratch);
        for (long panel = first_panel; panel < first_panel + panels; panel++) {
            const long column = panel * PANEL, outputs = layer.out - column < PANEL ? layer.out - column : PANEL;
            const float* weights = reinterpret_cast<const float*>(layer.weight) + panel * panel_floats;
            float* y = work.y + first_row * work.y_step + column;
            const float* residual = work.residual == nullptr ? nullptr : work.residual + first_row * work.residual_step + column;
            alignas(64) float bias[PANEL] = {};
            if (layer.bias != nullptr) memcpy(bias, layer.bias + column, outputs * sizeof(float));
            for (long k = 0; k < filled; k += portions.stretch) {
                const long some = filled - k < portions.stretch ? filled - k : portions.stretch;
                const bool last = begin + k + some >= layer.in;
                const float* w = weights + (begin + k) * PANEL;
                // What comes next: the panel's next stretch, else the next panel's first of this portion.
                const float* ahead = k + some < filled ? w + some * PANEL : w + panel_floats - k * PANEL;
                Ends ends = {begin + k > 0, last ? bias : nullptr, layer.gelu, residual, work.residual_step, ahead, lines};
                if (outputs == PANEL) {
                    panel_of(rows, scratch + k * ROWS, filled * ROWS, w, some, y, work.y_step, ends);
                    continue;
                }
                ends.residual = nullptr;
                panel_of(rows, scratch + k * ROWS, filled * ROWS, w, some, partial, PANEL, ends);
                if (!last) continue;
                for (long r = 0; r < rows; r++)
                    for (long j = 0; j < outputs; j++)
                        y[r * work.y_step + j] =
                            partial[r * PANEL + j] + (residual == nullptr ? 0.0f : residual[r * work.residual_step + j]);
            }
        }
    }
}

void take_work(void* context, int, int) {
    Work& work = *static_cast<Work*>(context);
    thread_local Scratch memory;
    const Portions portions(work.layer->in, false);
    float* scratch = memory.floats(portions.floats(work.blocks.largest()));
    if (scratch == nullptr) {
        __atomic_store_n(&work.job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const long panels = divided_up(work.layer->out, PANEL);
    long task;
    while ((task = next_task(&work.taken, work.blocks.count * work.runs)) >= 0) {
        const long block = task / work.runs, panel = task % work.runs * work.run;
        const long first = work.blocks.start(block), rows = work.blocks.start(block + 1) - first;
        multiply(work, portions, first, rows, panel, panels - panel < work.run ? panels - panel : work.run, scratch);
    }
}

void run_layer(Work& work) {
    const long panels = divided_up(work.layer->out, PANEL), threads = work.job->threads > 1 ? work.job->threads : 1;
    // As few blocks as hold the rows, as many for each thread; panels are divided where rows are few.
    const long rows = work.job->rows, most = Portions(work.layer->in, false).rows();
    work.blocks = Blocks(rows, ROWS, threads, most);
    work.run = panels;
    if (threads > 1 && work.blocks.largest() < 4 * ROWS) {
        work.blocks = Blocks(rows, ROWS, 1, most);
        work.run = divided_up(panels, 4 * threads);
        if (work.run < LEAST_COLUMNS) work.run = panels < LEAST_COLUMNS * threads ? divided_up(panels, threads) : LEAST_COLUMNS;
    }
    work.runs = divided_up(panels, work.run);
    work.taken = 0;
    const long tasks = work.blocks.count * work.runs;
    run_parallel(static_cast<int>(tasks < threads ? tasks : threads), take_work, &work);
}

// Rows are not a power of two apart, so that a tile of them has room in the first cache.
inline long between_step(const Layer& layer) { return divided_up(layer.out, LINE) * LINE + LINE; }

// Two layers or three, a block of rows through all, so that what lies between is near when it is read.
struct Both {
    MatmulJob* job;
    Blocks blocks;
    long taken;
};

// All rows of a job of one layer or two, by the thread that asks.
void through(MatmulJob& job, float* scratch, float* between, long step) {
    const Blocks none(0, ROWS, 1, ROWS);
    const float* x = job.x;
    long x_step = job.x_step;
    for (int i = 0; i < job.num_layers; i++) {
        const bool last = i + 1 == job.num_layers;
        const Layer& layer = job.layers[i];
        const Work work = {&job, &layer, x, x_step, last ? job.y : between, last ? job.y_step : step, last ? job.residual : nullptr,
                           job.residual_step, none, 0, 0, 0};
        multiply(work, Portions(layer.in, true), 0, job.rows, 0, divided_up(layer.out, PANEL), scratch);
        x = between;
        x_step = step;
    }
}

void take_both(void* context, int, int) {
    Both& both = *static_cast<Both*>(context);
    MatmulJob& job = *both.job;
    thread_local Scratch memory, between_memory, middle_memory;
    const bool end = job.num_layers == 3;
    const long most = both.blocks.largest(), step = between_step(job.layers[job.num_layers - 2]);
    const long middle_step = end ? between_step(job.layers[0]) : 0, width = job.layers[0].out;
    long floats = 0;
    for (int i = 0; i < job.num_layers; i++) {
        const long needed = Portions(job.layers[i].in, true).floats(most);
        floats = needed > floats ? needed : floats;
    }
    float* scratch = memory.floats(floats);
    float* between = between_memory.floats(most * step);
    float* middle = end ? middle_memory.floats(most * middle_step) : scratch;
    if (scratch == nullptr || between == nullptr || middle == nullptr) {
        __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
        return;
    }
    long task;
    while ((task = next_task(&both.taken, both.blocks.count)) >= 0) {
        const long first = both.blocks.start(task), rows = both.blocks.start(task + 1) - first;
        if (end) {
            MatmulJob one = first_part(job, first, rows, middle, middle_step), two = second_part(job, first, rows, middle, middle_step);
            through(one, scratch, between, step);
            job.norms[0].rows(middle, middle_step, rows, width, 1);
            through(two, scratch, between, step);
            job.norms[1].rows(two.y, two.y_step, rows, width, 1);
            continue;
        }
        MatmulJob part = job;
        part.x += first * job.x_step;
        part.y += first * job.y_step;
        if (job.residual != nullptr) part.residual += first * job.residual_step;
        part.rows = rows;
        through(part, scratch, between, step);
    }
}

void run_layer(MatmulJob& job) {
    Work work = {&job,         &job.layers[0],    job.x,                   job.x_step, job.y, job.y_step,
                 job.residual, job.residual_step, Blocks(0, ROWS, 1, ROWS), 0, 0, 0};
    run_layer(work);
}

void run_both(MatmulJob& job) {
    const long fit = BETWEEN_FLOATS / between_step(job.layers[job.num_layers - 2]) / ROWS * ROWS;
    long least = BOTH_BLOCK;
    for (int i = 0; i < job.num_layers; i++) {
        const long rows = Portions(job.layers[i].in, true).rows();
        least = rows < least ? rows : least;
    }
    const long most = fit < LEAST_BLOCK ? LEAST_BLOCK : fit < least ? fit : least;
    const long threads = job.threads > 1 ? job.threads : 1;
    if (job.rows >= threads * LEAST_BLOCK || threads == 1) {
        Both both = {&job, Blocks(job.rows, ROWS, threads, most), 0};
        const long tasks = both.blocks.count;
        return run_parallel(static_cast<int>(tasks < threads ? tasks : threads), take_both, &both);
    }
    // Few rows: all threads share each layer.
    thread_local Scratch memory, middle_memory;
    if (job.num_layers == 3) {
        const long width = job.layers[0].out, step = between_step(job.layers[0]);
        float* middle = middle_memory.floats(job.rows * step);
        if (middle == nullptr) {
            job.failed = 1;
            return;
        }
        MatmulJob one = first_part(job, 0, job.rows, middle, step), two = second_part(job, 0, job.rows, middle, step);
        run_layer(one);
        job.norms[0].rows(middle, step, job.rows, width, job.threads);
        run_both(two);
        job.norms[1].rows(job.y, job.y_step, job.rows, width, job.threads);
        job.failed = one.failed | two.failed;
        return;
    }
    const long step = between_step(job.layers[0]);
    float* between = memory.floats(job.rows * step);
    if (between == nullptr) {
        job.failed = 1;
        return;
    }
    const Blocks none(0, ROWS, 1, ROWS);
    Work up = {&job, &job.layers[0], job.x, job.x_step, between, step, nullptr, 0, none, 0, 0, 0};
    run_layer(up);
    Work down = {&job, &job.layers[1], between, step, job.y, job.y_step, job.residual, job.residual_step, none, 0, 0, 0};
    run_layer(down);
}

}  // namespace

namespace LEVEL_NAMESPACE {
void run(MatmulJob& job) {
    if (job.rows <= 0) return;
    if (job.num_layers == 1) return run_layer(job);
    run_both(job);
}
}  // namespace LEVEL_NAMESPACE
