#define LANES 8
#define VECTORS 2
#define TALL 6
#define SHORT 6
#define LEVEL_NAMESPACE attention_avx2
#include "attention.h"
