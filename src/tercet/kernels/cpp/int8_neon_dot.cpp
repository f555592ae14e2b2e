#define LANES 4
#include "int8_format.h"
#include "int8_tile_neon_dot.h"

void int8_neon_dot::run(MatmulJob& job, bool groups) { run_int8<TileOfChunks<NeonDotChunk>>(job, groups); }
