/* avxvnni.c: the island for AVX2, FMA, F16C and AVX-VNNI. */
#include "kernels/island.h"

#if defined(HAVE_AVX_VNNI)

#include "kernels/x86.h"

#define TARGET __attribute__((target(AVX_VNNI_SET)))
#define UNROLL UNROLL_16
#define INLINED KERNEL_INLINE
#define TILE_TOKENS 2
#define Q8_OFFSET 128 /* vpdpbusd wants unsigned bytes on the weights' side */
#define BYTE_PAIRS 0

#define AVX_VNNI
#include "kernels/avx2.h"
#include "kernels/lanes.h"

const Kernels avxvnni_kernels = {.name = "avxvnni", SAME_KERNELS, OWN_KERNELS};

#endif
