// The loops in double precision.
#define T_BITS 64
#define TYPE float64
typedef double T;
#include "loops.h"
