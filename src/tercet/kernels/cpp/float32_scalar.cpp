#define LANES 4
#define ROWS 6
#define VECTORS 2
#define LEVEL_NAMESPACE float32_scalar
#include "float32.h"
