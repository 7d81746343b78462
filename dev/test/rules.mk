# rules.mk: the tests. The Makefile includes it. Every suite is a target of its own, such as run/test_json,
# run_sanitized/test_json, run_fuzz/fuzz_json or run_cuda/step. suite.sh runs it and prints one line about it.
# Test programs are found by their names:
#   dev/test/test_NAME.c           a unit test, also run with sanitizers
#   dev/test/test_cli_NAME.sh      runs train_olmo2 from its command line, as test_cli.sh does
#   dev/test/test_cuda_cli_NAME.sh the same for train_olmo2cu, as test_cuda_cli.sh does
#   dev/test/fuzz_NAME.c           a fuzz target; its first inputs are in dev/test/corpus
#   dev/test/test_NAME.py          a test of the Python scripts, or of train_olmo2 by a Python script
#   dev/test/reference_NAME.py     a comparison with PyTorch or its ecosystem
# `make -k` continues after a failure, and -j runs suites in parallel.

SUITE = @dev/test/suite.sh
UNITS = $(patsubst dev/test/%.c,%,$(wildcard dev/test/test_*.c)) test_olmo2
CPU_LADDER = $(patsubst dev/cpu/%.c,cpu/%,$(filter-out %/loops.c,$(wildcard dev/cpu/*.c)))
COMMAND_LINES = $(patsubst dev/test/test_%.sh,%,$(wildcard dev/test/test_cli.sh dev/test/test_cli_*.sh))
FUZZERS = $(patsubst dev/test/%.c,%,$(wildcard dev/test/fuzz_*.c))

# ---------------------------------------------------------------------------------------------
# The CPU program

test: ladder units command_lines mutations
ladder: $(CPU_LADDER:%=run/%)
units: $(UNITS:%=run/%)
command_lines: $(COMMAND_LINES:%=run/%)
mutations: run/mutations
sanitize: $(addprefix run_sanitized/,$(UNITS) $(CPU_LADDER))
fuzz: $(FUZZERS:%=run_fuzz/%)

run/cli: train_olmo2
	$(SUITE) "command line" bash dev/test/test_cli.sh

run/cli_%: train_olmo2
	$(SUITE) "command line: $*" bash dev/test/test_cli_$*.sh

run/mutations: run/test_olmo2
	$(SUITE) mutations python3 dev/test/test_mutations.py

run/%: build/%
	$(SUITE) $* $<

run_sanitized/%: build/sanitize/%
	$(SUITE) "$* sanitized" $<

run_fuzz/%: build/%
	$(SUITE) $* dev/test/fuzz.sh $*

warnings:
	$(SUITE) warnings dev/test/test_warnings.sh

build/test_olmo2: test_olmo2.c
	$(BUILD) $< -o $@ $(LIBS)

build/%: dev/test/%.c
	$(BUILD) $< -o $@ $(LIBS)

# The same programs, compiled to check every memory access and every overflow.
build/sanitize/%: override CFLAGS = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined \
                                    -fno-omit-frame-pointer -DSANITIZED

build/sanitize/train_olmo2 build/sanitize/test_olmo2: build/sanitize/%: %.c
	$(BUILD) $< -o $@ $(LIBS)

build/sanitize/%: dev/test/%.c
	$(BUILD) $< -o $@ $(LIBS)

build/sanitize/cpu/loops.o: dev/cpu/loops.c
	$(BUILD) -c $< -o $@ $(OPENMP)

build/sanitize/cpu/%: dev/cpu/%.c build/sanitize/cpu/loops.o
	$(BUILD) $< build/sanitize/cpu/loops.o -o $@ $(LIBS)

build/fuzz_%: dev/test/fuzz_%.c
	mkdir -p build
	clang -O1 -g $(FLAGS) -fsanitize=fuzzer,address,undefined $< -o $@ -lm

# ---------------------------------------------------------------------------------------------
# Tests written in Python. They need the packages that scripts/test.sh installs into .venv.

PYTHON = $(or $(wildcard .venv/bin/python),python3)
PYTHON_TESTS = $(filter-out %mutations.py,$(notdir $(wildcard dev/test/test_*.py)))
REFERENCES = $(patsubst dev/test/reference_%.py,%,$(wildcard dev/test/reference_*.py))

scripts: $(PYTHON_TESTS:%=run/%) run/formulas
reference: $(addprefix run_reference/,model dumps bf16_floor $(REFERENCES))

run/%.py: dev/test/%.py train_olmo2
	$(SUITE) $*.py $(PYTHON) $<

run/formulas:
	$(SUITE) "formulas of dev/doc" $(PYTHON) dev/doc/check.py

run_reference/model:
	$(SUITE) reference $(PYTHON) dev/reference/test_reference.py

run_reference/dumps:
	$(SUITE) dumps $(PYTHON) dev/reference/dump.py --check

run_reference/bf16_floor:
	$(SUITE) "bf16 floor" $(PYTHON) dev/reference/bf16_floor.py --check

run_reference/%: train_olmo2
	$(SUITE) reference_$* $(PYTHON) dev/test/reference_$*.py

# ---------------------------------------------------------------------------------------------
# The CUDA program. dev/cuda_on_cpu builds it for the CPU.

build/test_olmo2cu: test_olmo2.c train_olmo2.cu build/cuda_flags
	$(CUDA_BUILD).d -x cu -DBACKEND='"train_olmo2.cu"' $< -o $@ $(CUBLAS_LIBS)

include dev/cuda_on_cpu/rules.mk
EMULATED = build/cuda_on_cpu/plain
CHECKED = build/cuda_on_cpu/check
CUDA_LADDER = $(patsubst dev/cuda/%.cu,dev/cuda/%,$(wildcard dev/cuda/*.cu))
CUDA_COMMAND_LINES = $(patsubst dev/test/test_cuda_%.sh,%,\
                       $(wildcard dev/test/test_cuda_cli.sh dev/test/test_cuda_cli_*.sh))
BOTH_PRECISIONS = $(foreach name,$(1),$(name) $(name)_fp32)
CUDA_SUITES = $(call BOTH_PRECISIONS,test_olmo2 dev/test/test_cuda $(CUDA_LADDER))
CUDA_COMMAND_LINE_PROGRAMS = train_olmo2 $(call BOTH_PRECISIONS,$(EMULATED)/train_olmo2)

test_cuda: $(addprefix run_cuda/,cuda_on_cpu $(CUDA_SUITES) $(CUDA_COMMAND_LINES) step traffic mutations \
             compile_check)

run_cuda/cuda_on_cpu:
	$(SUITE) cuda_on_cpu dev/cuda_on_cpu/test_cuda_on_cpu.sh

run_cuda/cli: $(CUDA_COMMAND_LINE_PROGRAMS)
	$(SUITE) "CUDA command line" bash dev/test/test_cuda_cli.sh

run_cuda/cli_%: $(CUDA_COMMAND_LINE_PROGRAMS)
	$(SUITE) "CUDA command line: $*" bash dev/test/test_cuda_cli_$*.sh

run_cuda/step: $(CUDA_ON_CPU_OBJECTS)
	$(SUITE) "CUDA step, checked" bash dev/test/test_cuda_step.sh

run_cuda/traffic: $(CHECKED)/dev/test/test_cuda_traffic
	$(SUITE) "CUDA memory traffic" $<

run_cuda/mutations: $(CUDA_ON_CPU_OBJECTS)
	$(SUITE) "CUDA mutations" python3 dev/test/test_cuda_mutations.py

run_cuda/compile_check:
	$(SUITE) "CUDA compile check" python3 dev/cuda/compile_check.py

run_cuda/%: $(EMULATED)/%
	$(SUITE) "$(notdir $*) on an emulated GPU" $<

# The rules of dev/cuda_on_cpu build PATH.cu. These build the same in fp32, and programs of two sources.
$(EMULATED)/%_fp32: %.cu dev/cuda_on_cpu/cu2cpp.sed $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< -DPRECISION_FP32 $(CUDA_ON_CPU_FLAGS) -o $@

$(EMULATED)/test_olmo2 $(EMULATED)/test_olmo2_fp32: test_olmo2.c $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< -DBACKEND='"train_olmo2.cu"' $(if $(findstring fp32,$@),-DPRECISION_FP32) -o $@

# test_cuda has both backends in one program. Its models are too small for a second thread.
$(call BOTH_PRECISIONS,$(EMULATED)/dev/test/test_cuda): dev/test/test_cuda.cu build/cpu_backend.o \
                                                        $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< build/cpu_backend.o $(if $(findstring fp32,$@),-DPRECISION_FP32) -o $@

build/cpu_backend.o: dev/test/cpu_backend.c
	$(BUILD) -Wno-unknown-pragmas -c $< -o $@

# The ladder's checks take a second. Optimising their programs would take ten.
$(EMULATED)/dev/cuda/%: CUDA_ON_CPU_FLAGS = -O0

# ---------------------------------------------------------------------------------------------
# All programs that the suites run: they are built in parallel before any suite starts.

programs: train_olmo2 $(addprefix build/,$(UNITS) $(CPU_LADDER)) \
          $(addprefix build/sanitize/,$(UNITS) $(CPU_LADDER)) \
          $(if $(shell command -v clang),$(FUZZERS:%=build/%))
cuda_programs: train_olmo2 $(addprefix $(EMULATED)/,$(CUDA_SUITES) $(call BOTH_PRECISIONS,train_olmo2)) \
               $(CHECKED)/dev/test/test_cuda_traffic

.PHONY: test test_cuda ladder units command_lines mutations sanitize fuzz warnings scripts reference \
        programs cuda_programs
