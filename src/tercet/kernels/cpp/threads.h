// Work shared among the threads of the OpenMP runtime that torch already runs on.
#pragma once

// The body of a parallel region: called once by every thread of the team.
typedef void (*Body)(void* context, int thread, int threads);

// Runs `body` on up to `threads` threads, and waits for all; on the caller alone where no runtime was given.
void run_parallel(int threads, Body body, void* context);

// The next of `count` tasks for whoever asks, -1 when all are taken. `taken` starts at 0.
static inline long next_task(long* taken, long count) {
    long task = __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED);
    return task < count ? task : -1;
}
