# make            builds ./qwen and ./convert/convert with cc, libc and pthreads alone
# make test       builds and runs every test (four to seven minutes on two cores)
# make run        converts the demo model and runs the catalogue on it, in seconds
# make check-golden GOLDEN=DIR   compares with reference data (default ../shared/golden)
# make lint       clang-tidy, cppcheck, shellcheck and the style limits
# make OMP=1      the same program on OpenMP instead of its own thread pool
# make EMULATE=1  AVX-VNNI, AVX-512 and AMX in software, for the tests (on x86-64 with AVX2); slow
# make SAN=asan   (with UBSan; or tsan) instrumented, for the tests; other objects, in build/asan
# make WERROR=1   warnings are errors
# make fuzz TIME=60   every fuzz target so many seconds (clang)
# make coverage   which lines and branches of parsers, writer, tokenizer and sampler tests execute
# make check-long   the long forms of the tests, under every sanitizer and valgrind
#
# Objects and test programs live in build/, so that instrumented builds stand beside the plain one.

# As many jobs as there are processors; `make -j1` for one.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell getconf _NPROCESSORS_ONLN || echo 1)
endif

CC ?= cc
WARN = -Wall -Wextra -Wconversion -Wshadow -Wvla -Wformat=2 -Wstrict-prototypes
# CFLAGS is yours. What is added to it is needed, and -Ofast is taken for -O3, because all
# instruction sets give the same bits. -ffp-contract=off: a product and a sum are fused only where
# the source says fma. No -march: every kernel carries its own target.
CFLAGS ?= -O3 -g
FLAGS = $(CFLAGS:-Ofast=-O3) -std=c11 -D_GNU_SOURCE -fno-fast-math -fno-math-errno \
    -ffp-contract=off -I. $(WARN) $(EXTRA) $(if $(WERROR),-Werror)
LDLIBS = -lm -lpthread
GOLDEN ?= ../shared/golden
B = build/$(or $(SAN),plain)$(if $(OMP),-omp)$(if $(EMULATE),-emulate)
QWEN = $(if $(SAN)$(OMP)$(EMULATE),$(B)/qwen,qwen)
CONVERT = $(if $(SAN)$(OMP)$(EMULATE),$(B)/convert/convert,convert/convert)

SANITIZE_asan = -O1 -DKERNEL_INLINE= -fsanitize=address,undefined -fno-sanitize-recover=all \
    -fno-omit-frame-pointer
SANITIZE_tsan = -O1 -DKERNEL_INLINE= -fsanitize=thread -fno-omit-frame-pointer
SANITIZE_msan = -O1 -DKERNEL_INLINE= -fsanitize=memory -fno-omit-frame-pointer -Wno-pass-failed
SANITIZE_cov = -O0 -DKERNEL_INLINE= --coverage -fprofile-update=atomic -DCOVERAGE
SANITIZE_fuzz = $(SANITIZE_asan) -fsanitize=fuzzer-no-link -Wno-pass-failed
FLAGS += $(SANITIZE_$(SAN)) $(if $(OMP),-fopenmp -DQWEN_OMP)

COMMON = $(addprefix $(B)/,base.o model.o json.o tokenizer.o chat.o)
KERNELS = $(patsubst %.c,$(B)/%.o,$(wildcard kernels/*.c))
CONVERT_PARTS = $(patsubst %.c,$(B)/%.o,$(filter-out convert/main.c,$(wildcard convert/*.c)))
TESTS = $(patsubst test/%.c,$(B)/%,$(wildcard test/test_*.c))

all: $(QWEN) $(CONVERT)

$(QWEN): $(KERNELS) $(B)/qwen.o $(COMMON)
	$(CC) $(FLAGS) -o $@ $^ $(LDLIBS)
$(CONVERT): $(B)/convert/main.o $(CONVERT_PARTS) $(COMMON)
	$(CC) $(FLAGS) -o $@ $^ $(LDLIBS)

$(B)/%.o: %.c
	@mkdir -p $(dir $@)
	$(CC) $(FLAGS) -MMD -MP -c -o $@ $<
# With variables in their debugging information the kernels take twice the time to compile.
$(KERNELS): EXTRA += -g1
# The kernels with what this processor may lack. (-Wno-psabi: gcc would tell how it passes vectors.)
ifdef EMULATE
$(KERNELS): EXTRA += -O1 -Wno-psabi
$(B)/kernels/avxvnni.o $(B)/kernels/avx512.o: EXTRA += -include test/avx512.h
$(B)/kernels/select.o: test/emulate.c
	@mkdir -p $(dir $@)
	$(CC) $(FLAGS) -MMD -MP -c -o $@ $<
endif
$(B)/test_% $(B)/golden $(B)/bench_kernels $(B)/make_tiny: EXTRA += -Wno-unused-function
$(B)/test_%: test/test_%.c $(KERNELS) $(COMMON) $(CONVERT_PARTS)
	$(CC) $(FLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
# Both programs with calls of libc that can be made to fail (faults.c, test_faults.c)
FAULTS = malloc calloc realloc posix_memalign strdup strndup mmap open read write pwrite fsync \
    rename fstat stat statvfs ftruncate fopen close pthread_create fwrite fputs fputc puts putchar \
    putc printf fprintf fflush fclose _exit
comma = ,
$(B)/faults/%: test/faults.c
	@mkdir -p $(dir $@)
	$(CC) $(FLAGS) -Wno-shadow -o $@ $(filter-out test/faults.c,$^) $< \
	    $(FAULTS:%=-Wl$(comma)--wrap=%) $(LDLIBS)
$(B)/faults/qwen: $(B)/qwen.o $(KERNELS) $(COMMON)
$(B)/faults/convert: $(B)/convert/main.o $(CONVERT_PARTS) $(COMMON)
# The same in one process, and buffers that are always full
$(B)/test_memory: LDLIBS += $(FAULTS:%=-Wl$(comma)--wrap=%) -Wl,--wrap=buffer_add \
    -Wl,--wrap=buffer_puts,--wrap=buffer_printf,--wrap=ids_add,--wrap=pack_panel
# Files that lie in memory
$(B)/test_mutate $(B)/test_finite: LDLIBS += -Wl,--wrap=map_open,--wrap=map_close
$(B)/fuzz_seeds: test/fuzz_seeds.c $(KERNELS) $(COMMON) $(CONVERT_PARTS)
	$(CC) $(FLAGS) -Wno-unused-function -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
$(B)/golden: test/golden.c $(KERNELS) $(COMMON) $(CONVERT_PARTS)
	$(CC) $(FLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
$(B)/make_tiny: test/make_tiny.c $(B)/base.o $(B)/model.o $(B)/json.o
	$(CC) $(FLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(LDLIBS)
-include $(wildcard $(B)/*.d $(B)/convert/*.d $(B)/kernels/*.d)

# The first minute: the demo model (demo/README.md), from its checkpoint to answers. One thread: the
# model is so small that a second one would mostly be waited for. Votes are asked for on a terminal.
run: all demo/demo.bin
	@./run_bench.sh --threads 1
	@./run_bench.sh --report
demo/demo.bin: $(wildcard demo/model/*) | $(CONVERT)
	./$(CONVERT) demo/model -o $@ --name demo

# Every test program prints its own count; run.sh adds them up.
test: all $(TESTS) $(B)/golden $(B)/make_tiny $(B)/faults/qwen $(B)/faults/convert
	@sh test/run.sh $(B) $(QWEN) $(CONVERT) $(GOLDEN)

# The long forms of the tests; also: what the tests execute
check-long: all $(TESTS) $(B)/golden $(B)/make_tiny $(B)/faults/qwen $(B)/faults/convert
	@sh test/check_long.sh $(B) $(QWEN) $(CONVERT) $(GOLDEN)
coverage: ; @$(MAKE) --no-print-directory SAN=cov run-coverage
run-coverage: all $(TESTS) $(B)/golden $(B)/make_tiny $(B)/faults/qwen $(B)/faults/convert
	@rm -f $(B)/*.gcda $(B)/convert/*.gcda $(B)/kernels/*.gcda
	@QUICK=1 sh test/run.sh $(B) $(QWEN) $(CONVERT) none >$(B)/test.log 2>&1 || cat $(B)/test.log
	@QUICK=1 sh test/test_cli.sh $(QWEN) $(CONVERT) none $(B)/scratch >>$(B)/test.log 2>&1 || \
	    cat $(B)/test.log
	@sh test/coverage.sh $(B)

# libFuzzer (clang) on every parser, TIME seconds each, from seeds made by fuzz_seeds. What is of
# interest is kept in build/fuzz/corpus; an input that fails is left as build/fuzz/FUZZ-crash-...
TIME = 60
FUZZ = json model safetensors gguf folder text messages template cache prompts
WRAP_FILES = -Wl,--wrap=map_open,--wrap=map_close,--wrap=read_file,--wrap=lstat
fuzz: ; @$(MAKE) --no-print-directory SAN=fuzz CC=clang $(FUZZ:%=run-fuzz-%)
$(FUZZ:%=$(B)/fuzz_%): $(B)/fuzz_%: test/fuzz_%.c $(KERNELS) $(COMMON) $(CONVERT_PARTS)
	$(CC) $(FLAGS) -Wno-unused-function -fsanitize=fuzzer $(WRAP_FILES) -MMD -MP -o $@ $< \
	    $(filter-out $(WITHOUT_$*),$(filter %.o,$^)) $(LDLIBS)
WITHOUT_text = $(B)/tokenizer.o
$(B)/seeds: $(B)/fuzz_seeds $(B)/make_tiny
	$(B)/make_tiny $(B)/good
	$(B)/fuzz_seeds $(B)/good $@
$(FUZZ:%=run-fuzz-%): run-fuzz-%: $(B)/fuzz_% | $(B)/seeds
	@mkdir -p $(B)/corpus/$*
	@FUZZ_GOOD=$(B)/good $< -max_total_time=$(TIME) -timeout=10 -rss_limit_mb=1024 -max_len=65536 \
	    -artifact_prefix=$(B)/$*- -print_final_stats=1 $(B)/corpus/$* $(B)/seeds/$* \
	    >$(B)/$*.log 2>&1 || { tail -n 40 $(B)/$*.log; exit 1; }
	@inputs=$$(sed -n 's/^stat::number_of_executed_units: *//p' $(B)/$*.log); \
	    echo "fuzz $*: $$inputs inputs in $(TIME) s"

check-golden: all $(B)/golden
	@rm -rf $(B)/scratch && mkdir -p $(B)/scratch
	@$(B)/golden --required $(GOLDEN) $(CONVERT) $(B)/scratch

# One clang-tidy per file, on all processors. cppcheck takes a cast of a cast (float)(int8_t)
# for a statement, the address of a float for an array, %u of a #define for wrong, and an Error that
# only a failure fills for uninitialized.
TIDY = $(wildcard *.c convert/*.c kernels/*.c test/*.c)
lint: cppcheck $(addprefix tidy-,$(TIDY))
	shellcheck .ci/run run_bench.sh demo/evaluate docs/compare.sh test/*.sh
	sh test/style.sh
cppcheck:
	cppcheck --quiet --error-exitcode=1 --std=c11 -D_GNU_SOURCE -D__x86_64__ -I. --inline-suppr \
	    --enable=warning,performance,portability --suppress=missingIncludeSystem \
	    --suppress=constStatement --suppress=objectIndex --suppress=invalidPrintfArgType_uint \
	    --suppress=ctuuninitvar $(TIDY)
$(addprefix tidy-,$(TIDY)): tidy-%: %
	@clang-tidy --quiet --warnings-as-errors='*' $< -- -std=c11 -D_GNU_SOURCE -I. 2>/dev/null

clean:
	rm -rf build qwen convert/convert demo/demo.bin

.PHONY: all run test check-long coverage run-coverage fuzz $(FUZZ:%=run-fuzz-%) check-golden lint \
    clean cppcheck $(addprefix tidy-,$(TIDY))
