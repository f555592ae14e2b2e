#define LANES 4
#define VECTORS 4
#define TALL 12
#define SHORT 6
#define LEVEL_NAMESPACE attention_neon
#include "attention.h"
