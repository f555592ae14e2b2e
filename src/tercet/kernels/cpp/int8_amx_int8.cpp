#define LANES 16
#include "int8_format.h"
#include "int8_tile_amx_int8.h"

void int8_amx_int8::run(MatmulJob& job, bool groups) { run_int8<AmxTile>(job, groups); }
