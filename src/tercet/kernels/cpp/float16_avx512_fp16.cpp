#define LANES 16
#include "float16_tile_avx512_fp16.h"

void float16_avx512_fp16::run(MatmulJob& job) { run_float16<Avx512Fp16Tile>(job); }
