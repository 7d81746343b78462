// ptx.h: the PTX instructions that the project writes as inline assembly for nvcc. Each function does what
// the PTX manual says about its instruction, for the calling lane. Those that a warp executes together need
// all 32 lanes.
#ifndef CUDA_ON_CPU_PTX_H
#define CUDA_ON_CPU_PTX_H

#include <stdint.h>

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: c += a b, with a (16, 16), b (16, 8), c (16, 8). A
// register of a or b holds two bf16, the lower index in the lower half. With g = lane / 4 and t = lane % 4,
//   a[0]: a(g, 2t) and a(g, 2t+1)   a[1]: row g + 8   a[2]: columns + 8   a[3]: row g + 8, columns + 8
//   b[0]: b(2t, g) and b(2t+1, g)   b[1]: rows + 8
//   c[0], c[1]: c(g, 2t), c(g, 2t+1)   c[2], c[3]: row g + 8
void cuda_on_cpu_mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2]);

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: four matrices of 8 rows of 16 bytes in shared memory.
// Lane 8i + j gives the address of row j of matrix i. r[i] of a lane is elements 2t and 2t+1 of row g of
// matrix i, or with `transposed` rows 2t and 2t+1 of column g.
void cuda_on_cpu_ldmatrix_x4(uint32_t r[4], const void *row, bool transposed);

// cp.async.cg.shared.global of 16 bytes; with source_bytes 0, not 16, it writes zeros and reads nothing. The
// copy is done as late as the program allows, in the wait for its group; until then the 16 bytes of shared
// memory are NaN, so that a missing wait shows.
void cuda_on_cpu_cp_async_16(void *shared, const void *global, int source_bytes);

// cp.async.commit_group, and cp.async.wait_group: all groups but the newest `pending` are complete.
void cuda_on_cpu_cp_async_commit();
void cuda_on_cpu_cp_async_wait(int pending);

#endif
