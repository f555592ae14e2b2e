#define LANES 16
#define VECTORS 4
#define TALL 12
#define SHORT 6
#define BFLOAT16
#define LEVEL_NAMESPACE attention_avx512_bf16
#include "attention.h"
