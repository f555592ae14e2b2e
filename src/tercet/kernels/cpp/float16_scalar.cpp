#define LANES 4
#include "float16_tile_scalar.h"

void float16_scalar::run(MatmulJob& job) { run_float16<ScalarHalves>(job); }
