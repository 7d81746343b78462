#!/usr/bin/env bash
# test_cuda_step.sh: test_cuda_step in bf16 and in fp32, under the checker of dev/cuda_on_cpu, which lets
# blocks, warps and lanes run forward, in reverse and shuffled. No run may be reported for anything, and
# all must print the same hashes.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
passed=0 failed=0

check() {  # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $what"
    fi
}

# Builds a precision's program and runs it in every order; its output is in the files PRECISION.ORDER.
try() {  # PRECISION FLAGS...
    local precision=$1 program=build/cuda_on_cpu/check/dev/test/test_cuda_step_$1 order
    shift
    dev/cuda_on_cpu/run.sh --build --check dev/test/test_cuda_step.cu "$@" -o "$program" || return
    for order in 0 1 2; do
        CUDA_ON_CPU_ORDER=$order "$program" >"$here/$precision.$order" 2>&1
        echo "exit code $?" >>"$here/$precision.$order"
    done
}

make -s -f dev/cuda_on_cpu/rules.mk cuda_on_cpu_objects || exit 1
try bf16 &
try fp32 -DPRECISION_FP32 &
wait

for precision in bf16 fp32; do
    for order in 0 1 2; do
        output=$here/$precision.$order
        touch "$output"
        check "$precision in order $order: nothing is reported" grep -qx "exit code 0" "$output"
        check "$precision in order $order: its own checks" grep -qE "^[1-9][0-9]* passed, 0 failed$" "$output"
        grep -qx "exit code 0" "$output" || tail -n 40 "$output"
        grep '^hash' "$output" >"$output.hashes"
        check "$precision in order $order: six hashes" test "$(wc -l <"$output.hashes")" -eq 6
        check "$precision in order $order: the hashes of order 0" cmp -s "$here/$precision".{0,$order}.hashes
    done
    cat "$here/$precision.0.hashes"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
