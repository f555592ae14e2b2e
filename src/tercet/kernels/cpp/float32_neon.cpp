#define LANES 4
#define ROWS 7
#define VECTORS 4
#define LEVEL_NAMESPACE float32_neon
#include "float32.h"
