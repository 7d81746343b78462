#!/usr/bin/env bash
# test_cuda_on_cpu.sh: the tests of the emulator: test_cuda_on_cpu.cu in both builds and with both kinds of
# fibers, and what run.sh does. The last line is "N passed, N failed".
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
run=$here/run.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

if ! "$run" --available >"$work/missing" 2>&1; then
    cat "$work/missing"
    echo "0 passed, 0 failed"
    exit 77
fi

# The counts of a program whose last line has them.
add() {
    local name=$1 line
    shift
    "$@" >"$work/log" 2>&1
    local code=$?
    line=$(tail -n 1 "$work/log")
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]] && [ "${BASH_REMATCH[1]}" -gt 0 ]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
        if [ "$code" -ne 0 ] || [ "${BASH_REMATCH[2]}" -ne 0 ]; then cat "$work/log"; fi
        echo "$name: $(grep 'can be seen' "$work/log"), $line"
    else
        failed=$((failed + 1))
        echo "FAILED $name: exit code $code"
        cat "$work/log"
    fi
}

# expect CODE WORDS COMMAND...: the exit code and a line of the output.
expect() {
    local code=$1 words=$2 reached=0
    shift 2
    "$@" >"$work/log" 2>&1 || reached=$?
    if [ "$reached" -eq "$code" ] && grep -qF -- "$words" "$work/log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $*: exit code $reached, not $code, or no \"$words\" in"
        cat "$work/log"
    fi
}

add "plain" "$run" "$here/test_cuda_on_cpu.cu"
add "with the checker" "$run" "$here/test_cuda_on_cpu.cu" --check
add "plain, with swapcontext" env CUDA_ON_CPU_UCONTEXT=1 "$run" "$here/test_cuda_on_cpu.cu"

# A program outside the tree, with files of its own.
mkdir "$work/lib" "$work/src"
cat >"$work/lib/kernel.cuh" <<'CUDA'
#pragma once
template <typename T>
__global__ void fill(T *p, T value) {
    extern __shared__ T s[];
    s[threadIdx.x] = value;
    p[threadIdx.x] = s[threadIdx.x];
}
static void run_fill(int *p) {
    fill<<<1, 32, 32 * sizeof(int)>>>(p, SEVEN);
}
CUDA
cat >"$work/src/program.cu" <<'CUDA'
#include "../lib/kernel.cuh"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    int *p, h[32];
    cudaMalloc(&p, sizeof h);
    run_fill(p);
    cudaMemcpy(h, p, sizeof h, cudaMemcpyDeviceToHost);
    printf("argument %s, element %d\n", argc > 1 ? argv[1] : "none", h[31]);
    return argc > 2 ? atoi(argv[2]) : 0;
}
CUDA
cd "$work/src" || exit 1
expect 0 "argument none, element 7" "$run" program.cu -DSEVEN=7
expect 3 "argument -x, element 7" "$run" program.cu -DSEVEN=7 --check -o "$work/out/program" -- -x 3
expect 1 "lib/kernel.cuh:9:" "$run" program.cu -DSEVEN=nothing
expect 0 "fill " env CUDA_ON_CPU_REPORT=1 "$run" program.cu -DSEVEN=7
expect 77 "skipped: no no-such-compiler" env CLANGXX=no-such-compiler "$run" program.cu
expect 1 "there is no file" "$run" absent.cu
rm -rf "$here/../../build/cuda_on_cpu/"{tree,plain,check}"$work"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
