#define LANES 16
#define ROWS 14
#define VECTORS 2
#define LEVEL_NAMESPACE float32_avx512
#include "float32.h"
