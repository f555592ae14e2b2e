#define LANES 8
#include "int8_format.h"
#include "int8_tile_avx_vnni.h"

void int8_avx_vnni::run(MatmulJob& job, bool groups) { run_int8<TileOfChunks<AvxVnniChunk>>(job, groups); }
