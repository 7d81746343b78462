#!/usr/bin/env python3
"""Breaks train_olmo2.cu or cuda_utils.cuh in one place at a time, and requires a test to notice.

Each mutant is a test_cuda_kernels, built by dev/cuda_on_cpu, that runs the groups of checks in the table. It
must be caught in the way that the table says: by a comparison with double, or by a report of the emulator or
its checker. A mutant that stays green is a hole in the tests. The source as it is must be green in every
build, or a failing mutant would prove nothing. It is also a failure if a mutation does not compile, if it
ends with a signal, or if its text does not occur exactly once in the source.

    python3 dev/test/test_cuda_mutations.py [NAME...]     all mutations, or those whose name contains a NAME
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parents[2]
CU = "train_olmo2.cu"
UTILS = "llmc/cuda_utils.cuh"
PROGRAM = "dev/test/test_cuda_kernels.cu"

# Builds: without the checker or with it, in bf16 or fp32. Building takes most of the time, so only what needs
# optimisation is optimised.
PLAIN: List[str] = []
CHECK = ["--check"]
FP32 = ["-DPRECISION_FP32"]
OPTIMISED = ["-O1"]  # without it, clang 14 does not tell the checker when a whole struct (a bf16) is copied
BUILDS = [PLAIN, CHECK, PLAIN + FP32, CHECK + FP32, CHECK + OPTIMISED]

# How a mutation is caught, and the exit code and words (in stdout or stderr) that show it.
COMPARISON = "a comparison"
RACE = "a race"
BOUNDS = "an access out of bounds"
MISALIGNED = "a misaligned access"
STUCK = "a deadlock"
WRONG_MEMORY = "the wrong kind of memory"
SIGNS = [
    (COMPARISON, 1, "FAILED"),
    (RACE, 94, "RACE"),
    (MISALIGNED, 94, "MISALIGNED"),
    (MISALIGNED, 96, "MISALIGNED"),
    (MISALIGNED, 96, "not both aligned"),
    (BOUNDS, 96, "OUT OF BOUNDS"),
    (BOUNDS, 99, "FAULT in "),  # in a kernel: the page behind an array
    (BOUNDS, 97, "of an allocation of"),
    (WRONG_MEMORY, 97, "only for global memory"),
    (STUCK, 98, ""),
]


class Edit(NamedTuple):
    """Replaces the one occurrence of `old` in `file`. A space in it matches any white space."""

    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    name: str
    groups: str  # of test_cuda_kernels, separated by spaces
    build: List[str]
    caught_by: str
    edits: List[Edit]


def without(text: str, file: str = CU) -> List[Edit]:
    return [Edit(file, text, "")]


def change(old: str, new: str, file: str = CU) -> List[Edit]:
    return [Edit(file, old, new)]


MUTATIONS = [
    # synchronisation
    Mutation("partial sums: no __syncthreads", "rmsnorm", CHECK, RACE, change(
        "blockDim.x / WARP; __syncthreads(); for (int c = (int)threadIdx.x;",
        "blockDim.x / WARP; for (int c = (int)threadIdx.x;")),
    Mutation("adding partial sums: no __syncthreads", "rmsnorm", CHECK, RACE, change(
        "sums[warp][lane_number()] = sum; __syncthreads();", "sums[warp][lane_number()] = sum;")),
    Mutation("gradient norm: no __syncthreads", "norm_of_gradients", CHECK, RACE, change(
        "of_warps[warp_number()] = sum; } __syncthreads();", "of_warps[warp_number()] = sum; }")),
    Mutation("classifier: no __syncthreads in the sum", "classifier", CHECK + OPTIMISED, RACE, change(
        "of_warps[warp_number()] = mine; } __syncthreads();", "of_warps[warp_number()] = mine; }")),
    Mutation("classifier: label read after it changed", "classifier", CHECK + OPTIMISED, RACE, without(
        "__syncthreads();  // no thread may overwrite the label's logit before it is read")),
    Mutation("decoding: no __syncthreads", "decoding", CHECK, RACE, change(
        "softmax.mean[n]; } __syncthreads();", "softmax.mean[n]; }")),
    Mutation("qknorm_rope forward: no __syncwarp", "qknorm_rope", CHECK, RACE, without(
        "__syncwarp();  // below, a lane reads channels that other lanes fetched")),
    Mutation("qknorm_rope backward: no __syncwarp", "qknorm_rope", CHECK, RACE, without(
        "__syncwarp();  // below, a lane adds to channels that other lanes zeroed")),
    Mutation("rows of a norm: not waited for", "rmsnorm", PLAIN, COMPARISON, change(
        "copy_async_commit(); copy_async_wait<0>(); }", "copy_async_commit(); }", UTILS)),
    Mutation("attention forward: keys used before all are there", "tiled", CHECK, RACE, without(
        "__syncthreads();  // the keys have arrived, and all warps are done with the previous values")),
    Mutation("attention forward: keys overwritten while in use", "tiled", CHECK, RACE, without(
        "__syncthreads();  // the values have arrived, and all warps are done with the keys")),
    Mutation("attention forward: waits for all but the newest", "tiled", PLAIN, COMPARISON, change(
        "copy_async_wait<0>(); __syncthreads();  // the keys",
        "copy_async_wait<1>(); __syncthreads();  // the keys")),
    Mutation("attention forward: does not wait for the values", "tiled", PLAIN, COMPARISON, change(
        "copy_async_wait<0>(); __syncthreads();  // the values", "__syncthreads();  // the values")),
    Mutation("attention dq: tile overwritten while in use", "tiled", CHECK, RACE, change(
        "next = KEYS * HS - now; copy_async_wait<0>(); __syncthreads();",
        "next = KEYS * HS - now; copy_async_wait<0>();")),
    Mutation("attention dq: rows overwritten before all have them", "tiled", CHECK, RACE, without(
        "__syncthreads();  // all warps have loaded their rows, so the tiles can be overwritten")),
    Mutation("attention dq: stored over tiles in use", "tiled", CHECK, RACE, change(
        "__syncthreads(); store_rows<HS, M>(dq", "store_rows<HS, M>(dq")),
    Mutation("attention dk, dv: tile overwritten while in use", "tiled", CHECK, RACE, change(
        "float next_statistic = 0.0f; copy_async_wait<0>(); __syncthreads();",
        "float next_statistic = 0.0f; copy_async_wait<0>();")),
    Mutation("attention dk, dv: does not wait for the tile", "tiled", PLAIN, COMPARISON, change(
        "float next_statistic = 0.0f; copy_async_wait<0>();", "float next_statistic = 0.0f;")),
    Mutation("attention: rows stored before other lanes are done", "tiled", CHECK, RACE, change(
        "lane = lane_number(); __syncwarp();", "lane = lane_number();")),
    Mutation("attention: rows read before other lanes stored them", "tiled", CHECK, RACE, change(
        "__syncwarp(); const int r0 = lane", "const int r0 = lane")),
    Mutation("classifier: only the lanes that wrote wait", "classifier", PLAIN, STUCK, change(
        "of_warps[warp_number()] = mine; } __syncthreads();",
        "of_warps[warp_number()] = mine; __syncthreads(); }")),

    # what a query may see
    Mutation("attention forward: sees the next token", "tiled", PLAIN, COMPARISON, change(
        "<false, M, KEYS>(s, past + first, j0)", "<false, M, KEYS>(s, past + first, j0 - 1)")),
    Mutation("attention forward: mask of the last tile only", "tiled", PLAIN, COMPARISON, change(
        "if (j0 + KEYS - 1 > past + first) {", "if (j0 + KEYS - 1 > past + first + 16 * M) {")),
    Mutation("attention forward: mask without the past", "pieces", PLAIN, COMPARISON, change(
        "<false, M, KEYS>(s, past + first, j0)", "<false, M, KEYS>(s, first, j0)")),
    Mutation("attention forward: a warp stops before its past", "pieces", PLAIN, COMPARISON, change(
        "min(past + first + 16 * M, end)", "min(first + 16 * M, end)")),
    Mutation("plain attention: a piece begins at position 0", "pieces", PLAIN, COMPARISON, change(
        "position = piece.position + i;", "position = i;")),
    Mutation("attention dq: sees the next token", "tiled", PLAIN, COMPARISON, change(
        "<false, M, STEP>(p, first, j0 + step)", "<false, M, STEP>(p, first, j0 + step - 1)")),
    Mutation("attention dk, dv: seen by the token before", "tiled", PLAIN, COMPARISON, change(
        "<true, M, STEP>(p, first, i0 + step)", "<true, M, STEP>(p, first, i0 + step + 1)")),
    Mutation("plain attention: sees the next token", "plain", PLAIN, COMPARISON, change(
        "Softmax<N> softmax = softmax_of_nothing<N>(); for (int j = 0; j <= position; j++) {",
        "Softmax<N> softmax = softmax_of_nothing<N>(); for (int j = 0; j <= min(position + 1, T - 1); j++) {")),
    Mutation("plain attention dq: does not see itself", "plain", PLAIN, COMPARISON, change(
        "delta_i = dot<N>(do_i, o_i); for (int j = 0; j <= i; j++) {",
        "delta_i = dot<N>(do_i, o_i); for (int j = 0; j < i; j++) {")),
    Mutation("plain attention dk, dv: not seen by itself", "plain", PLAIN, COMPARISON, change(
        "for (int i = j; i < T; i++) {", "for (int i = j + 1; i < T; i++) {")),
    Mutation("decoding: does not see the last token", "decoding", PLAIN, COMPARISON, change(
        "j0 + n <= position ? s : -INFINITY", "j0 + n < position ? s : -INFINITY")),

    # tensor cores
    Mutation("block_row: lanes of the wrong half", "tiled", PLAIN, COMPARISON, change(
        "slow = lane / 16, fast = lane / 8 % 2;", "fast = lane / 16, slow = lane / 8 % 2;")),
    Mutation("multiply_rows: halves of B swapped", "tiled", PLAIN, COMPARISON, change(
        "block_row<HS, ACROSS>(tile, 16 * n, k)", "block_row<HS, DOWN>(tile, 16 * n, k)")),
    Mutation("multiply_columns: halves of B swapped", "tiled", PLAIN, COMPARISON, change(
        "block_row<HS, DOWN>(tile, 16 * k, n)", "block_row<HS, ACROSS>(tile, 16 * k, n)")),
    Mutation("multiply_columns: rows of A swapped", "tiled", PLAIN, COMPARISON, change(
        "a[m][1] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]); "
        "a[m][2] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);",
        "a[m][2] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]); "
        "a[m][1] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);")),
    Mutation("pack_bf16: the wrong order", "tiled", PLAIN, COMPARISON, change(
        "__floats2bfloat162_rn(low, high)", "__floats2bfloat162_rn(high, low)", UTILS)),
    Mutation("swizzle: not where tiles are filled", "tiled", PLAIN, COMPARISON, change(
        "copy_async(tile + tile_place<HS>(r, c), row", "copy_async(tile + r * HS + c * 8, row")),
    Mutation("swizzle: not where rows are stored", "tiled", PLAIN, COMPARISON, change(
        "load<WIDE>(tile + tile_place<HS>(r, i))", "load<WIDE>(tile + r * HS + i * 8)")),

    # softmax
    Mutation("attention forward: mean not scaled to the new maximum", "tiled", PLAIN, COMPARISON, without(
        "mean[m][n][2 * half] *= factor;")),
    Mutation("attention forward: sum not scaled to the new maximum", "tiled", PLAIN, COMPARISON, without(
        "sum[m][half] *= factor;")),
    Mutation("plain attention: mean not scaled to the new maximum", "plain", PLAIN, COMPARISON, change(
        "a.mean[n] * factor_a + b.mean[n] * factor_b", "a.mean[n] + b.mean[n] * factor_b")),
    Mutation("attention: lse in powers of 2", "tiled", PLAIN, COMPARISON, change(
        "log2f(total)) * LN_2;", "log2f(total));")),
    Mutation("attention dq: lse taken for powers of 2", "tiled", PLAIN, COMPARISON, change(
        "lse_i[m][half] = i < T ? lse[i] * LOG2_E :", "lse_i[m][half] = i < T ? lse[i] :")),
    Mutation("attention dq: delta missing", "tiled", PLAIN, COMPARISON, change(
        "*= dp[m][n][e] - delta_i[m][e / 2];", "*= dp[m][n][e];")),
    Mutation("attention dk: delta missing", "tiled", PLAIN, COMPARISON, change(
        "*= dp[m][c][e] - delta_i[step + 8 * c + lane % 4 * 2 + e % 2];", "*= dp[m][c][e];")),
    Mutation("attention dk: statistics of another row", "tiled", PLAIN, COMPARISON, change(
        "lse_c = lse_i[step + 8 * c + lane % 4 * 2 + e % 2];",
        "lse_c = lse_i[step + 8 * c + lane % 4 * 2];")),
    Mutation("plain attention dk, dv: delta missing", "plain", PLAIN, COMPARISON, change(
        "p * (dot<N>(do_i, v_j) - delta[statistic]);", "p * dot<N>(do_i, v_j);")),
    Mutation("attention: 1 / sqrt(HS) missing in dk", "tiled", PLAIN, COMPARISON, change(
        "scales[m][1] = scale; ones", "scales[m][1] = 1.0f; ones")),
    Mutation("decoding: keys that are not there", "decoding", PLAIN, COMPARISON, change(
        "min(j0 + n, position)", "j0 + n")),
    Mutation("decoding: the last warp left out", "decoding", PLAIN, COMPARISON, change(
        "w < DECODE_WARPS; w++", "w < DECODE_WARPS - 1; w++")),

    # groups of queries, strides
    Mutation("attention forward: wrong group", "tiled", PLAIN, COMPARISON, change(
        "h = blockIdx.y, g = h / (NH / NKV); const size_t Q = (size_t)NH * HS, KV = (size_t)NKV * HS; "
        "const float scale = LOG2_E",
        "h = blockIdx.y, g = h % NKV; const size_t Q = (size_t)NH * HS, KV = (size_t)NKV * HS; "
        "const float scale = LOG2_E")),
    Mutation("attention dk, dv: one head of the group", "tiled", PLAIN, COMPARISON, change(
        "q + next_h * HS, Q, next_i0", "q, Q, next_i0")),
    Mutation("plain attention dk, dv: wrong group", "plain", PLAIN, COMPARISON, change(
        "for (int h = g * group; h < (g + 1) * group; h++) {", "for (int h = g; h < NH; h += NKV) {")),
    Mutation("attention forward: v_stride is that of k", "tiled", PLAIN, COMPARISON, change(
        "(values, v, v_stride, j0, end); copy_async_commit(); if (visible)",
        "(values, v, KV, j0, end); copy_async_commit(); if (visible)")),
    Mutation("attention dv: dv_stride is that of k", "tiled", PLAIN, COMPARISON, change(
        "dv + b * T * dv_stride + g * HS, dv_stride, first", "dv + b * T * dv_stride + g * HS, KV, first")),
    Mutation("decoding: sequences in the wrong slots", "decoding", PLAIN, COMPARISON, change(
        "keys += piece.page * page_T * KV", "keys += blockIdx.x * page_T * KV")),
    Mutation("attention forward: sequences in the wrong slots", "pieces", PLAIN, COMPARISON, change(
        "k += piece.page * page_T * KV", "k += blockIdx.z * page_T * KV")),
    Mutation("attention forward: rows of another piece", "pieces", PLAIN, COMPARISON, change(
        "q += piece.row * Q", "q += blockIdx.z * Q")),
    Mutation("cache: appended from its beginning", "pieces", PLAIN, COMPARISON, change(
        "(piece.page * page_T + piece.position + blockIdx.x) * KV", "(piece.page * page_T + blockIdx.x) * KV")),
    Mutation("cache: rows beyond a piece appended", "pieces", CHECK, BOUNDS, without(
        "if (blockIdx.x >= piece.count) { return; }")),
    Mutation("attention forward: keys beyond the piece", "pieces", PLAIN, COMPARISON, change(
        "copy_tile<HS, KEYS>(values, v, v_stride, j0, end);",
        "copy_tile<HS, KEYS>(values, v, v_stride, j0, end + KEYS);")),
    Mutation("qknorm_rope forward: x_stride is C", "qknorm_rope", PLAIN, COMPARISON, change(
        "sum_of_row_squares<W>(kept, x + n * x_stride, C)", "sum_of_row_squares<W>(kept, x + n * C, C)")),
    Mutation("qknorm_rope backward: dx_stride is C", "qknorm_rope", PLAIN, COMPARISON, change(
        "store(dx + n * dx_stride + c, dx_c);", "store(dx + n * C + c, dx_c);")),
    Mutation("classifier: rows of another length", "classifier", PLAIN, COMPARISON, change(
        "*row = logits + n * V;", "*row = logits + n * (V - W);")),

    # accumulation
    Mutation("sum over a warp: half the lanes", "warp_sum", CHECK, COMPARISON, change(
        "offset = WARP / 2; offset > 0; offset /= 2) { x +=",
        "offset = WARP / 4; offset > 0; offset /= 2) { x +=", UTILS)),
    Mutation("= for += in the embedding's gradient", "embedding", PLAIN, COMPARISON, change(
        "(G)((float)total[k] + sum[k])", "(G)sum[k]")),
    Mutation("embedding's gradient: the last of a bucket missing", "embedding", PLAIN, COMPARISON, change(
        "uint32_t i = begin; i < end; i++) {", "uint32_t i = begin; i < end - (end > begin + 1); i++) {")),
    Mutation("= for += in a norm's gradient", "rmsnorm", PLAIN, COMPARISON, change(
        "dw[c] = (G)((float)dw[c] + sum);", "dw[c] = (G)sum;")),
    Mutation("= for += in a weight's gradient", "matmul", PLAIN, COMPARISON, change(
        "dy, O, 1.0f, d, I);", "dy, O, 0.0f, d, I);")),
    Mutation("= for += in the residual's gradient", "matmul", PLAIN, COMPARISON, change(
        "accumulate_dx ? 1.0f : 0.0f", "0.0f")),
    Mutation("= for += in the residual stream", "rmsnorm", PLAIN, COMPARISON, change(
        "(float)x_c[k] + (float)w_c[k] * ((float)o_c[k] * s)", "(float)w_c[k] * ((float)o_c[k] * s)")),
    Mutation("rmsnorm backward: a row taken twice", "rmsnorm", PLAIN, COMPARISON, change(
        "n < N; n += (size_t)gridDim.x * warps) { for (int c = lane",
        "n < N; n += (size_t)gridDim.x * warps - 1) { for (int c = lane")),
    Mutation("partial sums: the last warp left out", "rmsnorm", PLAIN, COMPARISON, change(
        "for (int i = 0; i < warps; i++) { sum += sums[(size_t)i * C + c]; }",
        "for (int i = 0; i < warps - 1; i++) { sum += sums[(size_t)i * C + c]; }")),
    Mutation("gradient norm: the last warp left out", "norm_of_gradients", PLAIN, COMPARISON, change(
        "i < (int)blockDim.x / WARP; i++) { sum", "i < (int)blockDim.x / WARP - 1; i++) { sum")),
    Mutation("classifier: the last warp left out", "classifier", PLAIN, COMPARISON, change(
        "i < (int)blockDim.x / WARP; i++) { all", "i < (int)blockDim.x / WARP - 1; i++) { all")),
    Mutation("gradient norm: whoever comes first", "bits", PLAIN, COMPARISON, [
        Edit(CU, "if (lane_number() == 0) { of_warps[warp_number()] = sum; } __syncthreads();",
             "if (threadIdx.x == 0) { of_warps[0] = 0.0; } __syncthreads(); "
             "if (lane_number() == 0) { atomicAdd(&of_warps[0], sum); } __syncthreads();"),
        Edit(CU, "for (int i = 1; i < (int)blockDim.x / WARP; i++) { sum += of_warps[i]; }",
             "sum = of_warps[0];")]),

    # bounds
    Mutation("norm: rows beyond the last", "rmsnorm", CHECK, BOUNDS, change(
        "if (n >= N) { return; } const float s = 1.0f / sqrtf(sum_of_row_squares<W>(kept, x + n",
        "const float s = 1.0f / sqrtf(sum_of_row_squares<W>(kept, x + n")),
    Mutation("embedding's gradient: channels beyond the last", "embedding", CHECK, BOUNDS, change(
        "if (c >= C) { return; } const uint32_t begin", "const uint32_t begin")),
    Mutation("norm's gradient: channels beyond the last", "rmsnorm", CHECK, BOUNDS, change(
        "if (warp > 0 || c >= C) { return; }", "if (warp > 0) { return; }")),
    Mutation("adamw: parameters beyond the last", "adamw", CHECK, BOUNDS, change(
        "* ADAMW_WIDTH; if (i >= size) { return; }", "* ADAMW_WIDTH;")),
    Mutation("attention: queries and keys beyond the last", "tiled", PLAIN, BOUNDS, change(
        "row + c * 8, first + r < T);", "row + c * 8, true);")),
    Mutation("classifier: threads without a part of the row", "classifier", CHECK + OPTIMISED, BOUNDS, change(
        "(mine < V ? last : -1) * step", "last * step")),
    Mutation("rope: position n for n % T", "qknorm_rope", CHECK, BOUNDS, change(
        "positions[n] : n % T) * HS", "positions[n] : n) * HS")),
    Mutation("wide accesses for rows of any length", "swiglu", CHECK, MISALIGNED, change(
        "if (length % MOST == 0 && second % MOST == 0", "if (second % MOST == 0", UTILS)),
    Mutation("a row fetched from the middle of 16 bytes", "rmsnorm", PLAIN, MISALIGNED, change(
        "fetch<W>(x_kept + c, x + n * C + c);", "fetch<W>(x_kept + c, x + n * C + c + 1);")),
    Mutation("attention: rows stored beyond the last", "tiled", CHECK, BOUNDS, change(
        "r < 16 * M && first + r < T; r +=", "r < 16 * M && first + r <= T; r +=")),
    Mutation("a store for global memory to a kept sum", "rmsnorm", PLAIN, WRONG_MEMORY, change(
        "(float)dy_c[k] * ((float)x_c[k] * s); dw_c[k] += term; sum += (float)w_c[k] * term; } store_shared(",
        "(float)dy_c[k] * ((float)x_c[k] * s); dw_c[k] += term; sum += (float)w_c[k] * term; } store(")),

    # formulas
    Mutation("rmsnorm backward: the mean missing", "rmsnorm", PLAIN, COMPARISON, change(
        "(float)w_c[k] * (float)dy_c[k] - (float)x_c[k] * s * mean", "(float)w_c[k] * (float)dy_c[k]")),
    Mutation("rope: turned on in the backward", "qknorm_rope", PLAIN, COMPARISON, change(
        "turned[0][k] = (float)a[k] * cosine_c[k] + (float)b[k] * sine_c[k];",
        "turned[0][k] = (float)a[k] * cosine_c[k] - (float)b[k] * sine_c[k];")),
    Mutation("rope: neighbours for pairs", "qknorm_rope", PLAIN, COMPARISON, change(
        "return pair / half * HS + pair % half;", "return pair;")),
    Mutation("swiglu backward: up for gate", "swiglu", PLAIN, COMPARISON, change(
        "*gate = gate_up + n * 2 * F, *up = gate + F; floatX *dgate",
        "*up = gate_up + n * 2 * F, *gate = up + F; floatX *dgate")),
    Mutation("classifier: z-loss's gradient without its 2", "classifier", PLAIN, COMPARISON, change(
        "(1.0f + 2.0f * z * lse_n)", "(1.0f + z * lse_n)")),
    Mutation("classifier: the label counts once for each weight", "classifier", PLAIN, COMPARISON, change(
        "== label ? dx - weight : dx", "== label ? dx - 1.0f : dx")),
    Mutation("adamw: no bias correction of m", "adamw", PLAIN, COMPARISON, change(
        "s->lr / (float)(1.0 - pow((double)s->beta1, (double)s->t))", "s->lr")),
    Mutation("adamw: no bias correction of v", "adamw", PLAIN, COMPARISON, change(
        "(float)sqrt(1.0 - pow((double)s->beta2, (double)s->t))", "1.0f")),
    Mutation("adamw: moments swapped", "adamw", PLAIN, COMPARISON, change(
        "p, master, moment1, moment2, gradients", "p, master, moment2, moment1, gradients")),
    Mutation("adamw: master weights not written", "adamw", PLAIN, COMPARISON, without(
        "if (master != nullptr) { store(master + i, master_i); }")),
    Mutation("adamw: weights not written", "adamw", PLAIN, COMPARISON, without("store(p + i, p_i);")),
    Mutation("adamw: clipping left out", "adamw", PLAIN, COMPARISON, change(
        "(float)g_i[k] * s.gradient_scale", "(float)g_i[k]")),
    Mutation("stochastic rounding: to nearest", "adamw", PLAIN, COMPARISON, change(
        "(random & 0xffffu)", "0x8000u", UTILS)),
    Mutation("stochastic rounding: the same for every tensor", "adamw", PLAIN, COMPARISON, change(
        "random_bits(s.t, 4 * s.tensor + (uint64_t)which, i)", "random_bits(s.t, (uint64_t)which, i)")),
    Mutation("stochastic rounding: the same in every step", "adamw", PLAIN, COMPARISON, change(
        "random_bits(s.t, 4 *", "random_bits(1, 4 *")),

    # the model
    Mutation("all tensors have one number", "model", PLAIN, COMPARISON, change(
        "settings->weight_decay : 0.0f, i);", "settings->weight_decay : 0.0f, 0);")),
    Mutation("decay on embeddings", "model", PLAIN + FP32, COMPARISON, change(
        "p.row->decay ? settings->weight_decay : 0.0f, i);", "settings->weight_decay, i);")),
    Mutation("the key norm's gradient in the query norm's place", "model", PLAIN + FP32, COMPARISON, change(
        "d.k_norm = array_at(array, parameter_offset(c, K_NORM, l));",
        "d.k_norm = array_at(array, parameter_offset(c, Q_NORM, l));")),
    Mutation("feed-forward reads x", "model", PLAIN + FP32, COMPARISON, change(
        "matmul_forward(a.gate_up, a.h,", "matmul_forward(a.gate_up, a.x,")),
    Mutation("branch's gradient not added to the residual's", "model", PLAIN + FP32, COMPARISON, change(
        "matmul_backward(s->dx, d.w_qkv, s->dqkv, a.x, w.w_qkv, N, C, row, true);",
        "matmul_backward(s->dx, d.w_qkv, s->dqkv, a.x, w.w_qkv, N, C, row, false);")),
    Mutation("values' gradient not where the projection has it", "model", PLAIN + FP32, COMPARISON, change(
        "attention_backward(s->dq, s->dk, s->dqkv + Q + KV", "attention_backward(s->dq, s->dk, s->dqkv + Q")),
    Mutation("queries not recomputed", "model", PLAIN + FP32, COMPARISON, without(
        "qknorm_rope_forward(a.q, a.q_rstd, a.qkv, row, w.q_norm, m->rope, nullptr, N, T, c->NH, c->HS, eps);"
    )),
    Mutation("act not recomputed", "model", PLAIN + FP32, COMPARISON, without(
        "if (a != nullptr) { store(a + n * F + i, a_i); }")),
    Mutation("decoding: one position further", "model", PLAIN + FP32, COMPARISON, change(
        "(uint32_t)count, m->lengths[slot],", "(uint32_t)count, m->lengths[slot] + 1,")),
    Mutation("decoding: positions of a batch", "model", PLAIN + FP32, COMPARISON, change(
        "return m->extends ? m->cache.positions : nullptr;", "return nullptr;")),
    Mutation("pieces: one of several tokens taken for single", "model", PLAIN + FP32, COMPARISON, change(
        "Pieces{cache->pieces, n, several, 0}", "Pieces{cache->pieces, n, n, 0}")),
    Mutation("copied slots: keys only", "model", PLAIN + FP32, COMPARISON, change(
        "for (floatX *array : {m->cache.keys, m->cache.values})", "for (floatX *array : {m->cache.keys})")),
    Mutation("copied slots: the first layer only", "model", PLAIN + FP32, COMPARISON, change(
        "pitch, width, L, cudaMemcpyDeviceToDevice", "pitch, width, 1, cudaMemcpyDeviceToDevice")),
    Mutation("rows with a label: probabilities not moved", "model", PLAIN + FP32, COMPARISON, without(
        "spread(logprobs, m->rows, count, N);")),
    Mutation("logits of other rows", "model", PLAIN + FP32, COMPARISON, change(
        "m->rows[r] = (uint32_t)rows[i + r];", "m->rows[r] = (uint32_t)(i + r);")),
]


# ---------------------------------------------------------------------------------------------
# One program holds all mutants of a build. Each function with mutations gets one body for each of them, and
# chooses by the environment variable MUTANT when it is called:
#     { if (mutant(3)) { ...body with mutation 3... } else if (mutant(8)) { ... } else { ...as it is... } }

CHOICE = """
#include <cstdlib>
// Not instrumented: to the checker, a kernel that read this would read memory of the host.
__attribute__((noinline, no_sanitize("thread"))) inline bool mutant(int number) {
    static const int chosen = getenv("MUTANT") ? atoi(getenv("MUTANT")) : -1;
    return chosen == number;
}
"""


class Change(NamedTuple):
    """Where a mutation replaces text[begin:end] of a file."""

    mutant: int
    begin: int
    end: int
    new: str


def function_bodies(text: str) -> List[Tuple[int, int]]:
    """What is between the outermost braces of the file, without them."""
    skipped = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|^[ \t]*#[^\n]*'
    bodies, depth, begin = [], 0, 0
    for token in re.finditer(skipped + r"|[{}]", text, re.M | re.S):
        if token[0] == "{":
            depth += 1
            begin = token.end() if depth == 1 else begin
        elif token[0] == "}":
            depth -= 1
            bodies += [(begin, token.start())] if depth == 0 else []
    return bodies


def place(text: str, mutant: int, edit: Edit) -> Change:
    """The one place of an edit, without what its old and its new text have in common at either end."""
    found = list(re.finditer(r"\s+".join(map(re.escape, edit.old.split())), text))
    if len(found) != 1:
        raise ValueError(f"its text is {len(found)} times in {edit.file}: {edit.old}")
    begin, end = found[0].span()
    new = edit.new
    while new and begin < end and text[end - 1] == new[-1]:
        end, new = end - 1, new[:-1]
    while new and begin < end and text[begin] == new[0]:
        begin, new = begin + 1, new[1:]
    return Change(mutant, begin, end, new)


def with_mutants(text: str, changes: List[Change]) -> str:
    """The text of a file with a body for each mutant in every function that has mutations."""
    out, done = "", 0
    for begin, end in function_bodies(text):
        inside = [c for c in changes if begin <= c.begin and c.end <= end]
        if not inside:
            continue
        out += text[done:begin]
        for mutant in sorted({c.mutant for c in inside}):
            out, at = out + f" if (mutant({mutant})) {{", begin
            for c in sorted(c for c in inside if c.mutant == mutant):
                out, at = out + text[at : c.begin] + c.new, c.end
            out += text[at:end] + "} else "
        out, done = out + "{" + text[begin:end] + "}", end
        changes = [c for c in changes if c not in inside]
    if changes:
        raise ValueError(f"an edit is in no function: {changes[0].new}")
    return out + text[done:]


def build(flags: List[str], mutations: List[Tuple[int, Mutation]], folder: Path) -> str:
    """Builds folder/mutants from a copy of the project; "" or what went wrong."""
    for file in (PROGRAM, "dev/test/check.h", CU):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    for tree in ("llmc", "dev/ablations"):
        shutil.copytree(ROOT / tree, folder / tree)
    # The tool builds under the folder that it seems to lie in, with these objects.
    (folder / "dev/cuda_on_cpu").symlink_to(ROOT / "dev/cuda_on_cpu")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "build/cuda_on_cpu").mkdir(parents=True)
    for object_file in (ROOT / "build/cuda_on_cpu").glob("*.o"):
        (folder / "build/cuda_on_cpu" / object_file.name).symlink_to(object_file)
    try:
        for file in (CU, UTILS):
            text = (folder / file).read_text()
            changes = [place(text, i, edit) for i, m in mutations for edit in m.edits if edit.file == file]
            (folder / file).write_text(with_mutants(text, changes))
    except ValueError as error:
        return str(error)
    (folder / "mutant.h").write_text(CHOICE)
    command = ["dev/cuda_on_cpu/run.sh", "--build", PROGRAM, "-O0", "-g0", *flags, "-w", "--include=mutant.h",
               "-o", "mutants"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return "" if built.returncode == 0 else "does not compile:\n" + built.stderr.strip()


def verdict(folder: Path, number: int, mutation: Mutation) -> str:
    """How a mutant is caught, "green", or what went wrong."""
    try:
        program = ["./mutants", *mutation.groups.split()]
        run = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=300,
                             env={**os.environ, "MUTANT": str(number)})
    except subprocess.TimeoutExpired:
        return "does not end"
    if run.returncode == 0:
        return "green"
    for sign, code, words in SIGNS:
        if run.returncode == code and words in run.stdout + run.stderr:
            return sign
    return f"ended with {run.returncode}"


def main() -> int:
    wanted = [Mutation(f"the source as it is, {' '.join(b) or 'plain'}", "", b, "green", []) for b in BUILDS]
    wanted += [m for m in MUTATIONS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    objects = ["make", "-s", "-f", "dev/cuda_on_cpu/rules.mk", "cuda_on_cpu_objects"]
    if subprocess.run(objects, cwd=ROOT).returncode != 0:
        print("0 passed, 1 failed")
        return 1
    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        folders = [Path(temporary).resolve() / str(i) for i in range(len(BUILDS))]
        of_build = [[(i, m) for i, m in enumerate(wanted) if m.build == b] for b in BUILDS]
        wrong = list(pool.map(build, BUILDS, of_build, folders))
        for problem in filter(None, wrong):
            print(problem)
        verdicts = pool.map(lambda i_m: "not built" if wrong[BUILDS.index(i_m[1].build)] else
                            verdict(folders[BUILDS.index(i_m[1].build)], *i_m), enumerate(wanted))
        for mutation, got in zip(wanted, verdicts):
            ok = got == mutation.caught_by
            passed += ok
            failed += not ok
            should = "" if ok else f"   WRONG: should be {mutation.caught_by}"
            print(f"{mutation.name:56} {got}{should}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
