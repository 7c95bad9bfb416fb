/* avx2.c: the island for processors with AVX2, FMA and F16C. */
#if defined(__x86_64__)

#include "kernels/x86.h"

#define TARGET __attribute__((target(AVX2_SET)))
#define UNROLL UNROLL_16
#define INLINED KERNEL_INLINE
#define TILE_TOKENS 2
#define Q8_OFFSET 0
#define BYTE_PAIRS 1

#include "kernels/avx2.h"
#include "kernels/lanes.h"

const Kernels avx2_kernels = {.name = "avx2", SAME_KERNELS, OWN_KERNELS};

#endif
