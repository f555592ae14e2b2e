#define LANES 4
#define VECTORS 4
#define LEVEL_NAMESPACE attention_neon
#include "attention.h"
