#!/usr/bin/env bash
# test_cli_model.sh: what the CPU program says of an environment in which it cannot compute.
. "$(dirname "$0")/cli.sh"

new+=(--steps 2)
if [ "$(uname -s)" = Linux ]; then
    make_tokens
    # Too little stack would be a segmentation fault in the first matrix product.
    (ulimit -s 256 && exec "$program" "${new[@]}" --out small) >output 2>errors </dev/null
    equal "exit code with a small stack" $? 1
    equal "the message" "$(grep -c 'error: the program has .* of stack left.*ulimit -s 8192' errors)" 1
    OMP_NUM_THREADS=2 OMP_STACKSIZE=128k "$program" "${new[@]}" --out small >output 2>errors </dev/null
    equal "exit code with small stacks of threads" $? 1
    equal "the message" "$(grep -c 'error: a thread has .* of stack.*OMP_STACKSIZE=1M' errors)" 1
    equal "what was made" "$(ls -d small 2>/dev/null)" ""
    OMP_NUM_THREADS=2 OMP_STACKSIZE=1M run "${new[@]}" --out enough
fi
finish
