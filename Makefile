# make            builds ./qwen and ./convert/convert with cc, libc and pthreads alone
# make test       builds and runs every test (under five minutes)
# make OMP=1      the same program on OpenMP instead of its own thread pool
# make SAN=asan|tsan|ubsan    instrumented builds for the tests

CC ?= cc
WARN = -Wall -Wextra -Wconversion -Wshadow -Wvla -Wformat=2 -Wstrict-prototypes
# No -march: every kernel carries its own target. -ffp-contract=off: a product and a sum are fused
# only where the source says fma, so all instruction sets give the same bits.
CFLAGS = -O3 -g -std=c11 -D_GNU_SOURCE -fno-math-errno -ffp-contract=off $(WARN) $(EXTRA)
LDLIBS = -lm -lpthread
ifeq ($(OMP),1)
CFLAGS += -fopenmp -DQWEN_OMP
endif
ifneq ($(SAN),)
SANFLAGS_asan = -fsanitize=address,undefined -fno-sanitize-recover=all
SANFLAGS_tsan = -fsanitize=thread
CFLAGS += $(SANFLAGS_$(SAN)) -fno-omit-frame-pointer
endif

COMMON = base.o model.o json.o tokenizer.o chat.o
ENGINE = $(COMMON) kernels.o
CONVERT = $(patsubst %.c,%.o,$(wildcard convert/*.c))
TESTS = $(patsubst %.c,%,$(wildcard test/test_*.c))

all: qwen convert/convert
qwen: qwen.o $(ENGINE)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)
convert/convert: $(CONVERT) $(COMMON)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

%.o: %.c
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
-include $(wildcard *.d convert/*.d)

clean:
	rm -f qwen convert/convert *.o *.d convert/*.o convert/*.d $(TESTS)
.PHONY: all clean
