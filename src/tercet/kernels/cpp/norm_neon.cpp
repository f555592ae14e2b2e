#define LANES 4
#define LEVEL_NAMESPACE norm_neon
#include "norm.h"
