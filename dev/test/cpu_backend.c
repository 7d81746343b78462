// cpu_backend.c: the backend of train_olmo2.c with the names of cpu_backend.h, as an object of its own, so
// test_cuda.cu can have both backends in one program. Only the names differ from the program's.
#define OLMo2 CpuModel
#define olmo2_describe cpu_describe
#define olmo2_memory cpu_memory
#define olmo2_check cpu_check
#define olmo2_create cpu_create
#define olmo2_free cpu_free
#define olmo2_config cpu_config
#define olmo2_profile cpu_profile
#define olmo2_forward cpu_forward
#define olmo2_classify cpu_classify
#define olmo2_backward cpu_backward
#define olmo2_zero_gradients cpu_zero_gradients
#define olmo2_gradient_norm cpu_gradient_norm
#define olmo2_update cpu_update
#define olmo2_read cpu_read
#define olmo2_write cpu_write
#define olmo2_decode cpu_decode
#define olmo2_prefill cpu_prefill
#define olmo2_logits cpu_logits
#define olmo2_positions cpu_positions
#define olmo2_truncate cpu_truncate
#define olmo2_copy_slot cpu_copy_slot
#define olmo2_lends cpu_lends
#define olmo2_lend cpu_lend
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"
#include "cpu_backend.h"  // the compiler compares what it declares
