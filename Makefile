# make            builds ./qwen and ./convert/convert with cc, libc and pthreads alone
# make test       builds and runs every test (under five minutes)
# make check-golden GOLDEN=DIR   compares with reference data (default ../shared/golden)
# make lint       clang-tidy, cppcheck, shellcheck and the style limits
# make OMP=1      the same program on OpenMP instead of its own thread pool
# make SAN=asan   (with UBSan; or tsan) instrumented, for the tests; other objects, in build/asan
# make WERROR=1   warnings are errors
#
# Objects and test programs live in build/, so that instrumented builds stand beside the plain one.

CC ?= cc
WARN = -Wall -Wextra -Wconversion -Wshadow -Wvla -Wformat=2 -Wstrict-prototypes
# No -march: every kernel carries its own target. -ffp-contract=off: a product and a sum are fused
# only where the source says fma, so all instruction sets give the same bits.
CFLAGS = -O3 -g -std=c11 -D_GNU_SOURCE -fno-math-errno -ffp-contract=off -I. $(WARN) $(EXTRA)
CFLAGS += $(if $(WERROR),-Werror)
LDLIBS = -lm -lpthread
GOLDEN ?= ../shared/golden
B = build/$(or $(SAN),plain)$(if $(OMP),-omp)
QWEN = $(if $(SAN)$(OMP),$(B)/qwen,qwen)
CONVERT = $(if $(SAN)$(OMP),$(B)/convert/convert,convert/convert)

# -g1: with variables in the debugging information, kernels.c compiles for minutes
SANITIZE_asan = -O1 -g1 -DKERNEL_INLINE= -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_tsan = -O1 -g1 -DKERNEL_INLINE= -fsanitize=thread -fno-omit-frame-pointer
CFLAGS += $(SANITIZE_$(SAN)) $(if $(OMP),-fopenmp -DQWEN_OMP)

COMMON = $(addprefix $(B)/,base.o model.o json.o tokenizer.o chat.o)
CONVERT_PARTS = $(patsubst %.c,$(B)/%.o,$(filter-out convert/main.c,$(wildcard convert/*.c)))
TESTS = $(patsubst test/%.c,$(B)/%,$(wildcard test/test_*.c))

all: $(QWEN) $(CONVERT)

$(QWEN): $(B)/qwen.o $(B)/kernels.o $(COMMON)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)
$(CONVERT): $(B)/convert/main.o $(CONVERT_PARTS) $(COMMON)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(B)/%.o: %.c
	@mkdir -p $(dir $@)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/test_% $(B)/golden $(B)/bench_kernels $(B)/make_tiny: EXTRA += -Wno-unused-function
$(B)/test_%: test/test_%.c $(B)/kernels.o $(COMMON) $(CONVERT_PARTS)
	$(CC) $(CFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
# Files that lie in memory (test_mutate.c)
$(B)/test_mutate: LDLIBS += -Wl,--wrap=map_open,--wrap=map_close
$(B)/golden: test/golden.c $(B)/kernels.o $(COMMON)
	$(CC) $(CFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
$(B)/make_tiny: test/make_tiny.c $(B)/base.o $(B)/model.o $(B)/json.o
	$(CC) $(CFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
-include $(wildcard $(B)/*.d $(B)/convert/*.d)

# Every test program prints its own count; run.sh adds them up.
test: all $(TESTS) $(B)/golden $(B)/make_tiny
	@sh test/run.sh $(B) $(QWEN) $(CONVERT) $(GOLDEN)

check-golden: all $(B)/golden
	@rm -rf $(B)/scratch && mkdir -p $(B)/scratch
	@$(B)/golden $(GOLDEN) $(CONVERT) $(B)/scratch

# One clang-tidy per file, on all processors. cppcheck takes a cast of a cast (float)(int8_t)
# for a statement, the address of a float for an array, %u of a #define for wrong, and an Error that
# only a failure fills for uninitialized.
TIDY = $(wildcard *.c convert/*.c test/*.c)
lint: $(addprefix tidy-,$(TIDY))
	cppcheck --quiet --error-exitcode=1 --std=c11 -D_GNU_SOURCE -D__x86_64__ -I. --inline-suppr \
	    --enable=warning,performance,portability --suppress=missingIncludeSystem \
	    --suppress=constStatement --suppress=objectIndex --suppress=invalidPrintfArgType_uint \
	    --suppress=ctuuninitvar $(TIDY)
	shellcheck .ci/run test/*.sh
	sh test/style.sh
$(addprefix tidy-,$(TIDY)): tidy-%: %
	@clang-tidy --quiet --warnings-as-errors='*' $< -- -std=c11 -D_GNU_SOURCE -I. 2>/dev/null

clean:
	rm -rf build qwen convert/convert

.PHONY: all test check-golden lint clean $(addprefix tidy-,$(TIDY))
