#define LANES 8
#define VECTORS 2
#define LEVEL_NAMESPACE attention_avx2
#include "attention.h"
