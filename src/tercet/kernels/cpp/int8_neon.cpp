#define LANES 4
#include "int8_format.h"
#include "int8_tile_neon.h"

void int8_neon::run(MatmulJob& job, bool groups) { run_int8<TileOfChunks<NeonChunk>>(job, groups); }
