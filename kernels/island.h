/* island.h: what the islands are made with, and their tables.
 *
 * An island is the arithmetic for one instruction set, in a file of its own: what its functions
 * may be made of (TARGET), three vector types, and the primitives on them, in nearly the same order
 * everywhere; lanes.h then builds every kernel from these, and the table is the file's last lines.
 * scalar.c is the one to read first: plain C that says what each primitive means. AVX2 and AVX-VNNI
 * share most of their primitives (avx2.h). AMX and ARM's i8mm are no islands: they replace
 * functions of AVX-512's and NEON's tables (amx.h, i8mm.h).
 *
 * To add an island, write another file of the same shape, behind its own architecture guard, name
 * its table below and give it a row in select.c; nothing else changes. */
#ifndef ISLAND_H
#define ISLAND_H

#include "kernels/kernels.h"

#include <math.h>

/* NEON's int8 dot product belongs to ARMv8.2: gcc lets one function have it, clang before 16 only a
 * whole file (-march=armv8.2-a+dotprod, or a processor of Apple's). */
#if defined(__aarch64__) &&                                                                        \
    (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16)
#define HAVE_NEON_DOT
#endif

/* The int8 matrix product belongs to ARMv8.6. Only Linux says at run time whether it is there. */
#if defined(HAVE_NEON_DOT) &&                                                                      \
    (defined(__ARM_FEATURE_MATMUL_INT8) ||                                                         \
     (defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 16)))
#define HAVE_I8MM
#endif

/* AMX: what Linux gives to programs that ask for it, and assemblers know since these compilers. */
#if defined(__x86_64__) && defined(__linux__) &&                                                   \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAVE_AMX
#endif

/* AVX-VNNI: known since these compilers. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HAVE_AVX_VNNI
#endif

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#endif
#if defined(HAVE_AVX_VNNI)
extern const Kernels avxvnni_kernels;
#endif
#if defined(HAVE_AMX)
extern const Kernels amx_kernels;
#endif
#if defined(HAVE_NEON_DOT)
extern const Kernels neon_kernels;
#endif
#if defined(HAVE_I8MM)
extern const Kernels i8mm_kernels;
#endif

/* Loops of a few constant rounds over registers are unrolled whole; some not at all. */
#if defined(__clang__)
#define UNROLL_16 _Pragma("clang loop unroll(full)")
#define UNROLL_NOT _Pragma("nounroll")
#else
#define UNROLL_16 _Pragma("GCC unroll 16")
#define UNROLL_NOT _Pragma("GCC unroll 1")
#endif

/* Kernels are made of small functions that take formats and counts as constants. Instrumented
 * builds define this as nothing: then they take them at run time, slowly, but compile in seconds.
 */
#ifndef KERNEL_INLINE
#define KERNEL_INLINE __attribute__((always_inline))
#endif

/* From here on the compiler does not know where p points. Otherwise gcc keeps addresses and loaded
 * lines for a later use in registers that it does not have: on the stack. Reading twice is cheaper.
 */
#define FORGET(p) __asm__("" : "+r"(p))

/* How an island's functions are declared. */
#define INLINE TARGET static inline INLINED __attribute__((unused))

#endif
