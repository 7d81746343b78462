# make            train_olmo2, the CPU program
# make train_olmo2cu   the GPU program: PRECISION=bf16 (or fp32), CUDA_ARCH=native (or sm_90, ...)
# make build/cuda/rmsnorm   a file of dev/cuda for the GPU
# make build/cpu/matmul     a file of dev/cpu
# make test       every test that needs only a C compiler, make and plain Python
# make test_cuda  those of train_olmo2.cu and dev/cuda, on the CPU: needs clang++ and the CUDA Toolkit, no GPU
# make sanitize   the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make fuzz       a short run of every fuzz target (clang); FUZZ_SECONDS for each
# make warnings   everything with gcc and clang at -Werror, and the headers as C++
# make format     clang-format over the C sources
# Variables: CC (gcc or clang), CFLAGS (optimisation)

CFLAGS ?= -O3 -march=native
FUZZ_SECONDS ?= 20
# -ffp-contract=fast lets a * b + c be one fused instruction. It is not fast-math: NaN, infinity and the order
# of every sum stay as the source says. Nobody reads errno after sqrtf (-fno-math-errno) nor the flags of
# floating-point exceptions (-fno-trapping-math), and to set them would keep loops with a square root, or without
# AVX-512 with a comparison, from becoming vector code.
FLAGS = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -ffp-contract=fast -fno-math-errno -fno-trapping-math -I. \
        -MMD -MP
LIBS = -lm
SANITIZE = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

# On macOS, Apple's clang takes OpenMP from Homebrew's libomp; without it one thread is used, and the program
# says so.
ifeq ($(shell uname -s),Darwin)
  LIBOMP := $(shell brew --prefix libomp 2>/dev/null)
  OPENMP = $(if $(LIBOMP),-Xpreprocessor -fopenmp -I$(LIBOMP)/include -L$(LIBOMP)/lib -lomp)
else
  OPENMP = -fopenmp
endif

# The CUDA Toolkit: CUDA_HOME, or where it usually is. cuBLAS is part of it, or stands in .venv
# (scripts/setup.sh).
CUDA_HOME ?= $(firstword $(wildcard /usr/local/cuda) $(patsubst %/bin/nvcc,%,$(shell command -v nvcc)))
NVCC = $(CUDA_HOME)/bin/nvcc
CUBLAS_HEADERS = $(wildcard $(CURDIR)/.venv/lib/python3*/site-packages/nvidia/cu*/include/cublas_v2.h)
CUBLAS := $(firstword $(CUBLAS_HEADERS:/include/cublas_v2.h=))
ifneq ($(wildcard $(CUDA_HOME)/include/cublas_v2.h),)
  CUBLAS :=
endif
CUBLAS_LIBS = $(if $(CUBLAS),$(foreach lib,$(wildcard $(CUBLAS)/lib/libcublas*.so.*),-Xlinker $(lib)) \
                -Xlinker -rpath=$(CUBLAS)/lib,-lcublas)
CUDA_INCLUDES = $(if $(CUBLAS),-I$(CUBLAS)/include)
PRECISION ?= bf16
CUDA_ARCH ?= $(if $(shell command -v nvidia-smi),native,sm_80)
CUDA_FLAGS = -std=c++17 -O3 -arch=$(CUDA_ARCH) -I. $(CUDA_INCLUDES) -Werror all-warnings \
             -Xcompiler -Wall,-Wextra,-Werror $(if $(filter fp32,$(PRECISION)),-DPRECISION_FP32)

UNITS = $(patsubst dev/test/%.c,%,$(wildcard dev/test/test_*.c))
DRIVERS = $(patsubst dev/test/%.c,%,$(wildcard dev/test/*_driver.c))
FUZZERS = $(patsubst dev/test/%.c,%,$(wildcard dev/test/fuzz_*.c))
CPU_LADDER = $(patsubst dev/cpu/%.c,cpu/%,$(filter-out %/loops.c,$(wildcard dev/cpu/*.c)))
HEADERS = $(wildcard llmc/*.h)
CUDA_HEADERS = $(wildcard llmc/*.cuh dev/ablations/*.cuh dev/cuda/*.cuh dev/test/*.cuh)
SOURCES = train_olmo2.c train_olmo2.cu test_olmo2.c $(HEADERS) $(CUDA_HEADERS) \
          $(wildcard dev/test/*.[ch] dev/test/*.cu dev/bench/*.[ch] dev/cpu/*.[ch]) \
          $(wildcard dev/cuda/*.cu dev/cuda_on_cpu/*.h) \
          $(wildcard dev/cuda_on_cpu/*.cpp dev/cuda_on_cpu/*.cu)

all: train_olmo2

train_olmo2: train_olmo2.c | build
	$(CC) $(CFLAGS) $(FLAGS) -MF build/train_olmo2.d $< -o $@ $(OPENMP) $(LIBS)

# Another PRECISION or CUDA_ARCH than last time makes another program.
build/cuda_flags: FORCE | build
	@echo '$(CUDA_FLAGS)' | cmp -s - $@ || echo '$(CUDA_FLAGS)' >$@

train_olmo2cu: train_olmo2.cu $(CUDA_HEADERS) $(HEADERS) build/cuda_flags
	$(NVCC) $(CUDA_FLAGS) $< -o $@ $(CUBLAS_LIBS)

build/test_olmo2cu: test_olmo2.c train_olmo2.cu $(CUDA_HEADERS) $(HEADERS) build/cuda_flags | build
	$(NVCC) $(CUDA_FLAGS) -x cu -DBACKEND='"train_olmo2.cu"' $< -o $@ $(CUBLAS_LIBS)

build/cuda/%: dev/cuda/%.cu train_olmo2.cu $(CUDA_HEADERS) $(HEADERS) build/cuda_flags | build/cuda
	$(NVCC) $(CUDA_FLAGS) $< -o $@ $(CUBLAS_LIBS)

build/test_olmo2: test_olmo2.c | build
	$(CC) $(CFLAGS) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/%: dev/test/%.c | build
	$(CC) $(CFLAGS) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/%: dev/bench/%.c | build
	$(CC) $(CFLAGS) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

# The loops are compiled as llm.c is, whose -Ofast means -O3 -ffast-math.
build/cpu/loops.o: dev/cpu/loops.c | build/cpu
	$(CC) $(CFLAGS) -O3 -ffast-math $(FLAGS) -c $< -o $@ $(OPENMP)

build/cpu/%: dev/cpu/%.c build/cpu/loops.o
	$(CC) $(CFLAGS) $(FLAGS) $< build/cpu/loops.o -o $@ $(OPENMP) $(LIBS)

# bench_step with these loops in the place of train_olmo2.c's own functions, which get other names.
build/loops/train_olmo2.c: train_olmo2.c | build/loops
	sed -E 's/^static void ((matmul|attention|classifier)_(forward|backward))\(/static void \1_shipped(/' $< >$@

build/bench_step_loops: dev/bench/bench_step.c build/loops/train_olmo2.c build/cpu/loops.o
	$(CC) $(CFLAGS) $(FLAGS) -Wno-unused-function -DSTEP_WITH_LOOPS -include dev/cpu/loops.h \
	  -DBACKEND='"build/loops/train_olmo2.c"' $< build/cpu/loops.o -o $@ $(OPENMP) $(LIBS)

build/sanitize/train_olmo2: train_olmo2.c | build/sanitize
	$(CC) $(SANITIZE) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/sanitize/test_olmo2: test_olmo2.c | build/sanitize
	$(CC) $(SANITIZE) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/sanitize/%: dev/test/%.c | build/sanitize
	$(CC) $(SANITIZE) $(FLAGS) $< -o $@ $(OPENMP) $(LIBS)

build/sanitize/cpu/loops.o: dev/cpu/loops.c | build/sanitize/cpu
	$(CC) $(SANITIZE) $(FLAGS) -c $< -o $@ $(OPENMP)

build/sanitize/cpu/%: dev/cpu/%.c build/sanitize/cpu/loops.o
	$(CC) $(SANITIZE) $(FLAGS) -DRACE=0 $< build/sanitize/cpu/loops.o -o $@ $(OPENMP) $(LIBS)

build/fuzz_%: dev/test/fuzz_%.c | build
	clang -O1 -g $(FLAGS) -fsanitize=fuzzer,address,undefined $< -o $@ $(LIBS)

build build/sanitize build/cuda build/cpu build/sanitize/cpu build/loops:
	mkdir -p $@

# Every unit test, then the program as a whole; `make -k` goes on after a failure.
RUN_UNITS = $(addprefix run/,$(UNITS) test_olmo2 $(CPU_LADDER))
test: $(RUN_UNITS) run/mutations run/command_line

run/mutations: run/test_olmo2
	@dev/test/suite.sh mutations python3 dev/test/test_mutations.py

run/command_line: train_olmo2
	@dev/test/suite.sh "command line" bash dev/test/test_cli.sh

run/%: build/%
	@dev/test/suite.sh $* build/$*

RUN_SANITIZED = $(addprefix run_sanitized/,$(UNITS) test_olmo2 $(CPU_LADDER))
sanitize: $(RUN_SANITIZED)

run_sanitized/%: build/sanitize/%
	@dev/test/suite.sh "$* sanitized" build/sanitize/$*

fuzz: $(addprefix run_fuzz/,$(FUZZERS))

run_fuzz/%: build/%
	@dev/test/suite.sh $* dev/test/fuzz.sh $* $(FUZZ_SECONDS)

# The CUDA program on a CPU. Built by dev/cuda_on_cpu from PATH.cu: build/cuda_on_cpu/plain/PATH, the same in
# fp32 as PATH_fp32, and with the checker of races and memory traffic under check/ instead of plain/.
include dev/cuda_on_cpu/rules.mk
EMULATED = build/cuda_on_cpu/plain
CHECKED = build/cuda_on_cpu/check

$(EMULATED)/%_fp32: %.cu dev/cuda_on_cpu/cu2cpp.sed $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< -DPRECISION_FP32 $(CUDA_ON_CPU_FLAGS) -o $@

# The ladder's checks take a second; optimising their programs would take ten.
$(EMULATED)/dev/cuda/%: CUDA_ON_CPU_FLAGS = -O0

$(EMULATED)/test_olmo2 $(EMULATED)/test_olmo2_fp32: test_olmo2.c $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< -DBACKEND='"train_olmo2.cu"' $(if $(findstring fp32,$@),-DPRECISION_FP32) -o $@

# test_cuda has both backends in one program; its models are too small for a second thread.
build/cpu_backend.o: dev/test/cpu_backend.c | build
	$(CC) $(CFLAGS) $(FLAGS) -Wno-unknown-pragmas -c $< -o $@

$(EMULATED)/dev/test/test_cuda: dev/test/test_cuda.cu build/cpu_backend.o $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< build/cpu_backend.o -o $@

$(EMULATED)/dev/test/test_cuda_fp32: dev/test/test_cuda.cu build/cpu_backend.o $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< build/cpu_backend.o -DPRECISION_FP32 -o $@

LADDER = $(patsubst dev/cuda/%.cu,%,$(wildcard dev/cuda/*.cu))
CUDA_PROGRAMS = $(foreach name,test_olmo2 train_olmo2 dev/test/test_cuda $(addprefix dev/cuda/,$(LADDER)),\
                  $(EMULATED)/$(name) $(EMULATED)/$(name)_fp32) $(CHECKED)/dev/test/test_cuda_traffic
cuda_programs: $(CUDA_PROGRAMS)

test_cuda: run_cuda/cuda_on_cpu $(addprefix run_cuda/,test_olmo2 test_olmo2_fp32) \
           $(foreach name,$(LADDER),run_cuda/dev/cuda/$(name) run_cuda/dev/cuda/$(name)_fp32) \
           run_cuda/dev/test/test_cuda run_cuda/dev/test/test_cuda_fp32 \
           run_cuda/command_line run_cuda/step run_cuda/traffic run_cuda/mutations run_cuda/compile_check

run_cuda/cuda_on_cpu:
	@dev/test/suite.sh cuda_on_cpu dev/cuda_on_cpu/test_cuda_on_cpu.sh

run_cuda/%: $(EMULATED)/%
	@dev/test/suite.sh "$(notdir $*) on an emulated GPU" $<

run_cuda/command_line: train_olmo2 $(EMULATED)/train_olmo2 $(EMULATED)/train_olmo2_fp32
	@dev/test/suite.sh "CUDA command line" bash dev/test/test_cuda_cli.sh

run_cuda/step: $(CUDA_ON_CPU_OBJECTS)
	@dev/test/suite.sh "CUDA step, checked" bash dev/test/test_cuda_step.sh

run_cuda/traffic: $(CHECKED)/dev/test/test_cuda_traffic
	@dev/test/suite.sh "CUDA memory traffic" $<

run_cuda/mutations: $(CUDA_ON_CPU_OBJECTS)
	@dev/test/suite.sh "CUDA mutations" python3 dev/test/test_cuda_mutations.py

run_cuda/compile_check:
	@dev/test/suite.sh "CUDA compile check" python3 dev/cuda/compile_check.py

warnings:
	@dev/test/suite.sh warnings dev/test/test_warnings.sh

drivers: $(addprefix build/,$(DRIVERS))

# All that test, sanitize and fuzz run, for building side by side first.
programs: train_olmo2 drivers $(addprefix build/,$(UNITS) test_olmo2 $(CPU_LADDER)) \
          $(addprefix build/sanitize/,$(UNITS) test_olmo2 $(CPU_LADDER)) \
          $(if $(shell command -v clang),$(addprefix build/,$(FUZZERS)))

format:
	clang-format -i $(SOURCES)

clean:
	rm -rf build train_olmo2 train_olmo2cu

-include $(wildcard build/*.d build/cpu/*.d build/sanitize/*.d build/sanitize/cpu/*.d)

# Nothing may vanish between a build and its run.
.SECONDARY:
FORCE:
.PHONY: FORCE all test test_cuda cuda_programs sanitize fuzz warnings drivers programs format clean
