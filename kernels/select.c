/* select.c: which of the islands' tables this machine can run, and the best of them. */
#include "kernels/island.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* ==== What this CPU has ======================================================================= */

#if defined(__x86_64__)

/* Registers that the operating system saves and restores (XCR0); 0 when it does not say. */
__attribute__((target("xsave"))) static uint64_t saved_state(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    return (uint64_t)_xgetbv(0);
}

/* The first thing that an island needs and this machine lacks, or NULL. */
static const char *missing_avx2(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if ((saved_state() & 0x06) != 0x06) return "AVX state in the operating system";
    if (!__get_cpuid(1, &a, &b, &c, &d)) return "CPUID leaf 1";
    if (!(c & bit_FMA)) return "FMA";
    if (!(c & bit_F16C)) return "F16C";
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "CPUID leaf 7";
    return b & bit_AVX2 ? NULL : "AVX2";
}

#if defined(HAVE_AVX_VNNI)
static const char *missing_avxvnni(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    const char *missing = missing_avx2();
    if (missing) return missing;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return "CPUID leaf 7, 1";
    return a & 1u << 4 ? NULL : "AVX-VNNI";
}
#endif

static const char *missing_avx512(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    const char *missing = missing_avx2();
    if (missing) return missing;
    if ((saved_state() & 0xe6) != 0xe6) return "AVX-512 state in the operating system";
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "CPUID leaf 7";
    if (!(b & bit_AVX512F)) return "AVX-512F";
    if (!(b & bit_AVX512BW)) return "AVX-512BW";
    if (!(b & bit_AVX512VL)) return "AVX-512VL";
    if (!(b & bit_AVX512DQ)) return "AVX-512DQ";
    return c & bit_AVX512VNNI ? NULL : "AVX-512 VNNI";
}

#if defined(HAVE_AMX)
/* Linux keeps the tiles (8 KiB) of programs only that asked for it. */
static const char *missing_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl */
    uint32_t a = 0, b = 0, c = 0, d = 0;
    const char *missing = missing_avx512();
    if (missing) return missing;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "CPUID leaf 7";
    if (!(d & 1u << 24)) return "AMX tiles";
    if (!(d & 1u << 25)) return "AMX int8";
    if (!(d & 1u << 22)) return "AMX bf16";
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) return "AVX-512 BF16";
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0)
        return "the operating system's permission to use AMX";
    return NULL;
}
#endif

#endif /* __x86_64__ */

#if defined(HAVE_NEON_DOT)

/* The int8 dot product, when the system says so; elsewhere what the compiler was promised. */
static const char *missing_neon(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? NULL : "the int8 dot product (asimddp)";
#elif defined(__ARM_FEATURE_DOTPROD)
    return NULL;
#else
    return "a compiler's option for the int8 dot product (-march=armv8.2-a+dotprod)";
#endif
}

#if defined(HAVE_I8MM)
static const char *missing_i8mm(void) {
#if defined(__linux__)
    enum { HAS_I8MM = 1 << 13 }; /* HWCAP2_I8MM, which older headers lack */
    const char *missing = missing_neon();
    if (missing) return missing;
    return getauxval(AT_HWCAP2) & HAS_I8MM ? NULL : "the int8 matrix product (i8mm)";
#else
    return NULL;
#endif
}
#endif

#endif /* HAVE_NEON_DOT */

static const char *missing_scalar(void) { return NULL; }

/* ==== The choice ============================================================================== */

typedef struct {
    const Kernels *kernels;
    const char *(*missing)(void);
} Choice;

/* Best first. */
static const Choice choices[] = {
#if defined(HAVE_AMX)
    {&amx_kernels, missing_amx},
#endif
#if defined(__x86_64__)
    {&avx512_kernels, missing_avx512},
#endif
#if defined(HAVE_AVX_VNNI)
    {&avxvnni_kernels, missing_avxvnni},
#endif
#if defined(__x86_64__)
    {&avx2_kernels, missing_avx2},
#endif
#if defined(HAVE_I8MM)
    {&i8mm_kernels, missing_i8mm},
#endif
#if defined(HAVE_NEON_DOT)
    {&neon_kernels, missing_neon},
#endif
    {&scalar_kernels, missing_scalar},
};
enum { N_CHOICES = sizeof choices / sizeof choices[0] };

const Kernels *kernels_available(uint32_t index) {
    for (size_t i = 0; i < N_CHOICES; i++)
        if (choices[i].missing() == NULL && index-- == 0) return choices[i].kernels;
    return NULL;
}

const Kernels *kernels_select(const char *name, Error *e) {
    char names[64] = "";
    size_t n = 0;
    if (name == NULL) return kernels_available(0);
    for (size_t i = 0; i < N_CHOICES; i++) {
        const Kernels *k = choices[i].kernels;
        const char *missing = choices[i].missing();
        if (strcmp(k->name, name) == 0) {
            if (missing == NULL) return k;
            fail(e, NULL, "instruction set", "%s needs %s, which this machine lacks", name,
                 missing);
            return NULL;
        }
        int w = snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", k->name);
        if (w > 0) n = min_size(n + (size_t)w, sizeof names - 1);
    }
    fail(e, NULL, "instruction set", "unknown, expected one of %s, got \"%s\"", names, name);
    return NULL;
}

uint32_t kernels_fetch_ahead(void) {
    enum { NEAR = 1408, FAR = 4096 };
#if defined(__x86_64__)
    enum { FAMILY_OF_ZEN_5 = 0x1a };
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return NEAR;
    if (b == signature_INTEL_ebx) return FAR;
    if (b == signature_AMD_ebx && __get_cpuid(1, &a, &b, &c, &d) &&
        (a >> 8 & 0xf) + (a >> 20 & 0xff) >= FAMILY_OF_ZEN_5)
        return FAR;
#endif
    return NEAR;
}
