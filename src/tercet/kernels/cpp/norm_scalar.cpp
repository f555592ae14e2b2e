#define LANES 4
#define LEVEL_NAMESPACE norm_scalar
#include "norm.h"
