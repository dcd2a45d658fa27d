// The loops in single precision.
#define T_BITS 32
#define TYPE float32
typedef float T;
#include "loops.h"
