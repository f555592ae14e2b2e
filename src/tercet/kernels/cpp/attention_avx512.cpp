#define LANES 16
#define VECTORS 4
#define LEVEL_NAMESPACE attention_avx512
#include "attention.h"
