#define LANES 8
#include "int8_format.h"
#include "int8_tile_avx2.h"

void int8_avx2::run(MatmulJob& job, bool groups) { run_int8<TileOfChunks<Avx2Chunk>>(job, groups); }
