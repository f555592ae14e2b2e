#define LANES 4
#define VECTORS 2
#define LEVEL_NAMESPACE attention_scalar
#include "attention.h"
