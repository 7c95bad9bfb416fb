/* sha256.c: SHA-256 (FIPS 180-4), for the record of what a model.bin was made from. */
#include "convert.h"

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes (4.2.2). */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static inline uint32_t load_big(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

void sha256_init(Sha256 *s) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->state, start, sizeof start);
    s->bytes = 0;
}

/* Round t with the eight working variables in the roles a..h: the caller rotates the names. */
static inline void round_of(uint32_t a, uint32_t b, uint32_t c, uint32_t *d, uint32_t e, uint32_t f,
                            uint32_t g, uint32_t *h, uint32_t word) {
    uint32_t sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25), choice = g ^ (e & (f ^ g));
    uint32_t sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22), most = (a & b) | (c & (a | b));
    uint32_t t1 = *h + sum1 + choice + word;
    *d += t1;
    *h = t1 + sum0 + most;
}

/* 6.2.2: one block of 64 bytes. w holds the last 16 words of the message schedule. */
static void digest_block(uint32_t state[8], const uint8_t *p) {
    uint32_t w[16], v[8];
    memcpy(v, state, sizeof v);
    for (int t = 0; t < 16; t++) w[t] = load_big(p + 4 * t);
    for (int t = 0; t < 64; t += 8) {
        for (int i = 0; i < 8; i++) {
            int now = (t + i) & 15;
            if (t >= 16) {
                uint32_t x = w[(now + 1) & 15], y = w[(now + 14) & 15];
                w[now] += (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[(now + 9) & 15] +
                          (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
            }
            round_of(v[-i & 7], v[(1 - i) & 7], v[(2 - i) & 7], &v[(3 - i) & 7], v[(4 - i) & 7],
                     v[(5 - i) & 7], v[(6 - i) & 7], &v[(7 - i) & 7], w[now] + K[t + i]);
        }
    }
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

void sha256_update(Sha256 *s, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    size_t held = s->bytes % 64;
    s->bytes += n;
    if (held > 0) {
        size_t take = min_size(64 - held, n);
        memcpy(s->block + held, p, take);
        if (held + take < 64) return;
        digest_block(s->state, s->block);
        p += take;
        n -= take;
    }
    for (; n >= 64; p += 64, n -= 64) digest_block(s->state, p);
    if (n > 0) memcpy(s->block, p, n);
}

/* A one bit, zeros, and the length in bits as eight bytes, up to a whole block (5.1.1). */
void sha256_final(Sha256 *s, uint8_t out[32]) {
    uint64_t bits = s->bytes * 8;
    size_t held = s->bytes % 64, zeros = (held < 56 ? 55 : 119) - held;
    uint8_t tail[128] = {0x80};
    for (size_t i = 0; i < 8; i++) tail[1 + zeros + i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_update(s, tail, 1 + zeros + 8);
    for (size_t i = 0; i < 32; i++) out[i] = (uint8_t)(s->state[i / 4] >> (24 - 8 * (i % 4)));
}
