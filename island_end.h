/* island_end.h: takes back what an island of kernels.c has defined, before the next one. */
#undef ISLAND
#undef TARGET
#undef UNROLL
#undef INLINED
#undef TILE_TOKENS
#undef Q8_OFFSET
#undef BYTE_PAIRS
