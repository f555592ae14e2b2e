#define LANES 4
#define VECTORS 2
#define TALL 6
#define SHORT 6
#define LEVEL_NAMESPACE attention_scalar
#include "attention.h"
