#define LANES 16
#define VECTORS 4
#define TALL 12
#define SHORT 6
#define LEVEL_NAMESPACE attention_avx512
#include "attention.h"
