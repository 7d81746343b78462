#!/usr/bin/env bash
# fuzz.sh TARGET SECONDS: feeds the target changed inputs for that long; a crash or a report fails.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
corpus=build/corpus/$1 seeds=dev/test/corpus/$1
mkdir -p "$corpus"
if [ ! -d "$seeds" ]; then seeds=; fi
# shellcheck disable=SC2086
"build/$1" -max_total_time="$2" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="build/tests/$1-" "$corpus" $seeds >"build/tests/$1.fuzz" 2>&1
code=$?
tail -n 15 "build/tests/$1.fuzz"
if [ $code -eq 0 ]; then echo "1 passed, 0 failed"; else echo "0 passed, 1 failed"; fi
exit $code
