#define LANES 8
#define ROWS 6
#define VECTORS 2
#define LEVEL_NAMESPACE float32_avx2
#include "float32.h"
