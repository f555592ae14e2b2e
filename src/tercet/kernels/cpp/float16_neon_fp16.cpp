#define LANES 4
#include "float16_tile_neon_fp16.h"

void float16_neon_fp16::run(MatmulJob& job) { run_float16<NeonFp16Tile>(job); }
