#define LANES 16
#include "int8_format.h"
#include "int8_tile_avx512_vnni.h"

void int8_avx512_vnni::run(MatmulJob& job, bool groups) { run_int8<Avx512VnniTile>(job, groups); }
