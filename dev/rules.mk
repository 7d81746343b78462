# rules.mk: builds the programs of dev/cpu, dev/cuda and dev/bench. The Makefile includes it.

# The loops are compiled as llm.c is, whose -Ofast means -O3 -ffast-math.
build/cpu/loops.o: dev/cpu/loops.c
	$(BUILD) -O3 -ffast-math -c $< -o $@ $(OPENMP)

build/cpu/%: dev/cpu/%.c build/cpu/loops.o
	$(BUILD) $< build/cpu/loops.o -o $@ $(LIBS)

build/cuda/%: dev/cuda/%.cu build/cuda_flags
	$(CUDA_BUILD).d $< -o $@ $(CUBLAS_LIBS)

build/%: dev/bench/%.c
	$(BUILD) $< -o $@ $(LIBS)

# bench_step with these loops instead of train_olmo2.c's own functions, which get other names.
build/loops/train_olmo2.c: train_olmo2.c
	mkdir -p $(@D)
	sed -E 's/^static void ((matmul|attention|classifier)_(forward|backward))\(/static void \1_shipped(/' $< >$@

build/bench_step_loops: dev/bench/bench_step.c build/loops/train_olmo2.c build/cpu/loops.o
	$(BUILD) -Wno-unused-function -DSTEP_WITH_LOOPS -include dev/cpu/loops.h \
	  -DBACKEND='"build/loops/train_olmo2.c"' $< build/cpu/loops.o -o $@ $(LIBS)
