# rules.mk: builds .cu files as programs for the CPU. A Makefile at the root of the tree includes it.
#   build/cuda_on_cpu/plain/PATH    from PATH.cu
#   build/cuda_on_cpu/check/PATH    from PATH.cu, with the checker
# CUDA_ON_CPU_FLAGS, which may be set per target, holds more compiler flags. A second program from the same
# source, or one from a file that is not a .cu, has a rule of its own:
#   build/cuda_on_cpu/plain/train_fp32: train.cu $(CUDA_ON_CPU_OBJECTS)
#   	$(CUDA_ON_CPU_BUILD) $< -DPRECISION_FP32 -o $@

CUDA_ON_CPU_BUILD = dev/cuda_on_cpu/run.sh --build
CUDA_ON_CPU_OBJECTS = $(addsuffix .o,$(addprefix build/cuda_on_cpu/,\
                        cuda_on_cpu runtime report ptx cublas checker))
CUDA_ON_CPU_HEADERS = $(wildcard dev/cuda_on_cpu/*.h)

cuda_on_cpu_objects: $(CUDA_ON_CPU_OBJECTS)

$(CUDA_ON_CPU_OBJECTS): build/cuda_on_cpu/%.o: dev/cuda_on_cpu/%.cpp $(CUDA_ON_CPU_HEADERS)
	dev/cuda_on_cpu/run.sh --object $< -o $@

build/cuda_on_cpu/plain/%: %.cu dev/cuda_on_cpu/cu2cpp.sed $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) $< $(CUDA_ON_CPU_FLAGS) -o $@

build/cuda_on_cpu/check/%: %.cu dev/cuda_on_cpu/cu2cpp.sed $(CUDA_ON_CPU_OBJECTS)
	$(CUDA_ON_CPU_BUILD) --check $< $(CUDA_ON_CPU_FLAGS) -o $@

-include $(shell find build/cuda_on_cpu -name '*.d' 2>/dev/null)

.PHONY: cuda_on_cpu_objects
