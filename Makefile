# make                      train_olmo2, the CPU program
# make train_olmo2cu        the GPU program: PRECISION=bf16 (or fp32), CUDA_ARCH=native (or sm_90, ...)
# make build/cpu/matmul     a program of dev/cpu; build/cuda/rmsnorm is one of dev/cuda, for the GPU
# make test                 all tests that need only a C compiler, make and plain Python
# make test_cuda            the tests of the CUDA code, on the CPU: needs clang++, the CUDA Toolkit, no GPU
# make sanitize             the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make fuzz                 a short run of every fuzz target: needs clang
# make warnings             compiles everything with gcc and clang at -Werror, and the headers as C++
# make format               runs clang-format on the C and CUDA sources
# make clean                removes everything that was built
# Variables: CC (gcc or clang), CFLAGS (optimisation)

CFLAGS ?= -O3 -march=native
# -ffp-contract=fast fuses a * b + c into one instruction. It is not fast-math: NaN, infinity and the order of
# every sum stay as written. Nothing reads errno after sqrtf or the floating-point exception flags. Setting
# them would stop the compiler from vectorising loops with a square root or, without AVX-512, a comparison.
FLAGS = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -ffp-contract=fast -fno-math-errno -fno-trapping-math \
        -I. -MMD -MP
# For some processors GCC leaves the additions of some loops unfused, because it expects that to be faster. The
# bits of a sum would then depend on the loop that computes it: a product of few rows and one of many differ.
FUSE_ALL := --param=avoid-fma-max-bits=0
FUSE_ALL := $(shell $(CC) $(FUSE_ALL) -Werror -fsyntax-only -x c /dev/null 2>/dev/null && echo $(FUSE_ALL))
LIBS = $(OPENMP) -lm
BUILD = mkdir -p build $(@D) && $(CC) $(CFLAGS) $(FUSE_ALL) $(FLAGS)

# On macOS, Apple's clang takes OpenMP from Homebrew's libomp. Without it the program runs on one thread, and
# says so.
ifeq ($(shell uname -s),Darwin)
  LIBOMP := $(shell brew --prefix libomp 2>/dev/null)
  OPENMP = $(if $(LIBOMP),-Xpreprocessor -fopenmp -I$(LIBOMP)/include -L$(LIBOMP)/lib -lomp)
else
  OPENMP = -fopenmp
endif

all: train_olmo2

train_olmo2: train_olmo2.c
	$(BUILD) -MF build/train_olmo2.d $< -o $@ $(LIBS)

# ---------------------------------------------------------------------------------------------
# The GPU program. CUDA_HOME is the CUDA Toolkit; by default it is looked for in the usual places. cuBLAS is
# part of it, or in .venv, where scripts/setup.sh installs it.

CUDA_HOME ?= $(firstword $(wildcard /usr/local/cuda) $(patsubst %/bin/nvcc,%,$(shell command -v nvcc)))
CUDA_ARCH ?= $(if $(shell command -v nvidia-smi),native,sm_80)
PRECISION ?= bf16
CUDA_FLAGS = -std=c++17 -O3 -arch=$(CUDA_ARCH) -I. $(CUBLAS:%=-I%/include) -Werror all-warnings \
             -Xcompiler -Wall,-Wextra,-Werror $(if $(filter fp32,$(PRECISION)),-DPRECISION_FP32)
CUDA_BUILD = mkdir -p build $(@D) && $(CUDA_HOME)/bin/nvcc $(CUDA_FLAGS) -MMD -MP -MF build/$(@F)
ifeq ($(wildcard $(CUDA_HOME)/include/cublas_v2.h),)
  CUBLAS := $(patsubst %/include/cublas_v2.h,%,$(firstword \
              $(wildcard $(CURDIR)/.venv/lib/python3*/site-packages/nvidia/cu*/include/cublas_v2.h)))
endif
CUBLAS_LIBS = $(if $(CUBLAS),$(foreach lib,$(wildcard $(CUBLAS)/lib/libcublas*.so.*),-Xlinker $(lib)) \
                -Xlinker -rpath=$(CUBLAS)/lib,-lcublas)

train_olmo2cu: train_olmo2.cu build/cuda_flags
	$(CUDA_BUILD).d $< -o $@ $(CUBLAS_LIBS)

# This file changes when PRECISION or CUDA_ARCH does, so the program is then built again.
build/cuda_flags: FORCE
	@mkdir -p build && echo '$(CUDA_FLAGS)' | cmp -s - $@ || echo '$(CUDA_FLAGS)' >$@

# ---------------------------------------------------------------------------------------------

include dev/rules.mk dev/test/rules.mk
-include $(wildcard build/*.d build/*/*.d build/sanitize/cpu/*.d)

format:
	clang-format -i $$(git ls-files --cached --others --exclude-standard '*.[ch]' '*.cu' '*.cuh' '*.cpp')

clean:
	rm -rf build train_olmo2 train_olmo2cu

# Keeps what was built for a test: make would delete it after the run.
.SECONDARY:
FORCE:
.PHONY: FORCE all format clean
