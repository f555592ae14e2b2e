#define LANES 16
#define LEVEL_NAMESPACE norm_avx512
#include "norm.h"
