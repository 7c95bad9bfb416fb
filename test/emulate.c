/* emulate.c: kernels/select.c for a processor that has AVX2 and lacks AVX-VNNI, AVX-512 or AMX, so
 * that their tables can be tested there. `make EMULATE=1` links every program with this instead.
 *
 * Instructions of AVX-VNNI and AVX-512 are C instead, in the source already (avx512.h).
 *
 * AMX's are done from the bytes that the compiler made of amx.h: the processor raises SIGILL at
 * such an instruction; the handler does what Intel's manual says (Software Developer's Manual,
 * volume 2, TDPBSSD and the others) on tiles in memory, and goes on behind it. A processor with AMX
 * does them itself. */
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "avx512.h"
#include "model.h"

/* CPUID says that all of it is there, and the system that it saves the registers and permits AMX.
 */
static int cpuid_with_all(uint32_t leaf, uint32_t sub, uint32_t *a, uint32_t *b, uint32_t *c,
                          uint32_t *d) {
    int known = __get_cpuid_count(leaf, sub, a, b, c, d);
    if (known && leaf == 7 && sub == 0) {
        *b |= bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
        *c |= bit_AVX512VNNI;
        *d |= 1u << 22 | 1u << 24 | 1u << 25; /* AMX: bf16, tiles, int8 */
    }
    if (known && leaf == 7 && sub == 1) *a |= 1u << 4 | 1u << 5; /* AVX-VNNI, AVX-512 BF16 */
    return known;
}

static long permit_amx(long call, long request, long feature) {
    (void)syscall(call, request, feature); /* it may have it */
    return 0;
}

#define __get_cpuid_count cpuid_with_all
#undef _xgetbv
#define _xgetbv(which) (0xe6 | (which))
#define syscall permit_amx
#include "kernels/select.c"

/* ---- Tiles ----------------------------------------------------------------------------------- */

typedef struct {
    uint8_t rows, row_bytes;
    uint8_t data[16][64];
} Tile;

static __thread Tile tiles[8];

static void configure(const uint8_t *c) {
    memset(tiles, 0, sizeof tiles);
    for (int t = 0; t < 8; t++) {
        tiles[t].row_bytes = c[16 + 2 * t];
        tiles[t].rows = c[48 + t];
        if (c[0] != 1 || tiles[t].rows > 16 || tiles[t].row_bytes > 64) abort();
    }
}

/* C (M x N int32) += A (M x 4K int8) B (K x 4N int8) */
static void dot_i8(Tile *c, const Tile *a, const Tile *b) {
    int32_t sums[16];
    for (int m = 0; m < c->rows; m++) {
        memcpy(sums, c->data[m], sizeof sums);
        for (int k = 0; k < a->row_bytes / 4; k++)
            for (int n = 0; n < c->row_bytes / 4; n++)
                for (int j = 0; j < 4; j++)
                    sums[n] += (int8_t)a->data[m][4 * k + j] * (int8_t)b->data[k][4 * n + j];
        memcpy(c->data[m], sums, sizeof sums);
    }
}

/* Subnormal numbers are 0. */
SOFT __m512 flushed(__m512 x) {
    U32x16 bits = (U32x16)x;
    return (__m512)(bits & ~((U32x16)((bits & 0x7f800000) == 0) & 0x7fffffff));
}

/* C (M x N float) += A (M x 2K bf16) B (K x 2N bf16): the products of even and of odd columns are
 * summed apart, from 0, by fma; then their sum is added. */
SOFT void dot_bf16(Tile *c, const Tile *a, const Tile *b) {
    for (int m = 0; m < c->rows; m++) {
        __m512 even = {0}, odd = {0};
        for (int k = 0; k < a->row_bytes / 4; k++) {
            uint32_t pair;
            memcpy(&pair, a->data[m] + 4 * k, sizeof pair);
            U32x16 x = pair + (U32x16){0}, y = (U32x16)soft_load(b->data[k]);
            even = flushed(soft_fma(flushed((__m512)(x << 16)), flushed((__m512)(y << 16)), even));
            x &= 0xffff0000, y &= 0xffff0000;
            odd = flushed(soft_fma(flushed((__m512)x), flushed((__m512)y), odd));
        }
        __m512 sums = flushed((__m512)soft_load(c->data[m])) + flushed(even + odd);
        soft_store(c->data[m], (__m512i)flushed(sums));
    }
}

/* ---- Instructions ---------------------------------------------------------------------------- */

static uint64_t reg(const ucontext_t *u, int number) {
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)u->uc_mcontext.gregs[order[number]];
}

/* One instruction: VEX prefix of three bytes, opcode, ModRM and what it asks for. */
typedef struct {
    const uint8_t *at;
    int prefix; /* 0, 1: 66, 2: F3, 3: F2 */
    int opcode, mod, reg, rm, vvvv;
    size_t length;
    uint64_t base, index; /* of its memory operand */
} Instruction;

static uint64_t displacement(const uint8_t *p, int mod) {
    int32_t wide;
    if (mod == 0) return 0;
    if (mod == 1) return (uint64_t)(int64_t)(int8_t)*p;
    memcpy(&wide, p, sizeof wide);
    return (uint64_t)(int64_t)wide;
}

/* False when it is none of AMX's. */
static bool decode(const ucontext_t *u, Instruction *i) {
    const uint8_t *p = (const uint8_t *)(uintptr_t)u->uc_mcontext.gregs[REG_RIP];
    if (p[0] != 0xc4 || (p[1] & 31) != 2 || (p[2] & 0x84) != 0) return false;
    *i = (Instruction){p,
                       .prefix = p[2] & 3,
                       .opcode = p[3],
                       .mod = p[4] >> 6,
                       .reg = p[4] >> 3 & 7,
                       .rm = p[4] & 7,
                       .vvvv = ~p[2] >> 3 & 15,
                       .length = 5};
    if (i->opcode != 0x49 && i->opcode != 0x4b && i->opcode != 0x5c && i->opcode != 0x5e)
        return false;
    if (i->mod == 3) return true;
    int high_base = p[1] & 0x20 ? 0 : 8, high_index = p[1] & 0x40 ? 0 : 8, base = i->rm;
    if (i->rm == 4) { /* a SIB byte */
        int sib = p[i->length++], index = (sib >> 3 & 7) | high_index;
        base = sib & 7;
        if (index != 4) i->index = reg(u, index) << (sib >> 6);
    }
    size_t bytes = i->mod == 1 ? 1 : i->mod == 2 ? 4 : 0;
    if (i->mod == 0 && base == 5) { /* a displacement alone, or from the next instruction */
        bytes = 4;
        i->base = i->rm == 5 ? (uint64_t)(uintptr_t)p + i->length + 4 : 0;
    } else {
        i->base = reg(u, base | high_base);
    }
    i->base += displacement(p + i->length, bytes == 1 ? 1 : bytes ? 2 : 0);
    i->length += bytes;
    return true;
}

/* False when it is none that amx.h uses. */
static bool execute(const Instruction *i) {
    Tile *t = &tiles[i->reg];
    uint8_t *p = (uint8_t *)(uintptr_t)i->base;
    int what = i->opcode << 4 | i->prefix;
    if (what == 0x490 && i->mod != 3)
        configure(p);
    else if (what == 0x490)
        memset(tiles, 0, sizeof tiles);
    else if (what == 0x493)
        memset(t->data, 0, sizeof t->data);
    else if (what == 0x4b3 || what == 0x4b1) {
        memset(t->data, 0, sizeof t->data);
        for (int r = 0; r < t->rows; r++)
            memcpy(t->data[r], p + (size_t)r * i->index, t->row_bytes);
    } else if (what == 0x4b2)
        for (int r = 0; r < t->rows; r++)
            memcpy(p + (size_t)r * i->index, t->data[r], t->row_bytes);
    else if (what == 0x5e3)
        dot_i8(t, &tiles[i->rm], &tiles[i->vvvv]);
    else if (what == 0x5c2)
        dot_bf16(t, &tiles[i->rm], &tiles[i->vvvv]);
    else
        return false;
    return true;
}

static void illegal(int signal_number, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    Instruction i;
    (void)info;
    if (decode(u, &i) && execute(&i))
        u->uc_mcontext.gregs[REG_RIP] += (greg_t)i.length;
    else
        signal(signal_number, SIG_DFL); /* it comes again */
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_sigaction = illegal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGILL, &action, NULL) != 0) abort();
}
