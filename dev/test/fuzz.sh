#!/usr/bin/env bash
# fuzz.sh TARGET: feeds mutated inputs to a fuzz target, beginning with those of dev/test/corpus. A crash or a
# sanitizer's report fails. The number of inputs is fixed, so a busy machine tests as much as an idle one;
# they take about 5 seconds of CPU. FUZZ_RUNS sets another number.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
case $1 in
    fuzz_tokenizer) runs=8000 ;; # builds a tokenizer from each input
    fuzz_tokens | fuzz_requests) runs=50000 ;; # writes a file for each input
    *) runs=100000 ;;
esac
corpus=build/corpus/$1 seeds=dev/test/corpus/$1
mkdir -p "$corpus" build/tests
if [ ! -d "$seeds" ]; then seeds=; fi
# shellcheck disable=SC2086
"build/$1" -runs="${FUZZ_RUNS:-$runs}" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="build/tests/$1-" "$corpus" $seeds >"build/tests/$1.fuzz" 2>&1
code=$?
tail -n 15 "build/tests/$1.fuzz"
if [ $code -eq 0 ]; then echo "1 passed, 0 failed"; else echo "0 passed, 1 failed"; fi
exit $code
