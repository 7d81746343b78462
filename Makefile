# make            train_olmo2, the CPU program
# make test       every test that needs only a C compiler, make and Python with NumPy
# make sanitize   the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make fuzz       a short run of every fuzz target (clang)
# make format     clang-format over the C sources
# Variables: CC (gcc or clang), CFLAGS (optimisation), PYTHON

CC ?= gcc
PYTHON ?= python3
CFLAGS ?= -O3 -march=native
# -ffp-contract=fast lets a * b + c be one fused instruction. It is not fast-math: NaN, infinity and the order of
# every sum stay as the source says.
FLAGS = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -ffp-contract=fast -I. -MMD -MP
LIBS = -lm

# On macOS, Apple's clang takes OpenMP from Homebrew's libomp; without it one thread is used, and the program says so.
ifeq ($(shell uname -s),Darwin)
  LIBOMP := $(shell brew --prefix libomp 2>/dev/null)
  OPENMP = $(if $(LIBOMP),-Xpreprocessor -fopenmp -I$(LIBOMP)/include -L$(LIBOMP)/lib -lomp)
else
  OPENMP = -fopenmp
endif

TESTS = $(patsubst dev/test/%.c,build/%,$(wildcard dev/test/test_*.c)) build/test_olmo2
FUZZERS = $(patsubst dev/test/%.c,build/%,$(wildcard dev/test/fuzz_*.c))
TOOLS = $(patsubst dev/test/%.c,build/%,$(wildcard dev/test/*_driver.c))
SANITIZE = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

all: train_olmo2

train_olmo2: train_olmo2.c | build
	$(CC) $(CFLAGS) $(FLAGS) -MF build/train_olmo2.d $< -o $@ $(OPENMP) $(LIBS)

build/test_olmo2: test_olmo2.c | build
	$(CC) $(CFLAGS) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/%: dev/test/%.c | build
	$(CC) $(CFLAGS) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/fuzz_%: dev/test/fuzz_%.c | build
	clang -O1 -g $(FLAGS) -fsanitize=fuzzer,address,undefined $< -o $@ $(LIBS)

build:
	mkdir -p build

clean:
	rm -rf build train_olmo2

-include $(wildcard build/*.d)

.PHONY: all clean
