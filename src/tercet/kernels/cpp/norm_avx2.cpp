#define LANES 8
#define LEVEL_NAMESPACE norm_avx2
#include "norm.h"
