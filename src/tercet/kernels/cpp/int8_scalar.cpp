#define LANES 4
#include "int8_format.h"
#include "int8_tile_scalar.h"

void int8_scalar::run(MatmulJob& job, bool groups) { run_int8<TileOfChunks<PlainChunk>>(job, groups); }
