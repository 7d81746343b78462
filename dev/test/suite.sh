#!/usr/bin/env bash
# suite.sh NAME COMMAND...: runs one test program, shows a line about it, and adds one to build/tests/results.
# A program's last line must be "N passed, N failed"; without one, or with another exit code than 0, the suite
# has failed and what it printed is shown. Lines that begin with "skipped" are shown always.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
name=$1
shift
mkdir -p build/tests
log=build/tests/$(tr ' /' '__' <<<"$name").log

# Threads that wait spin for a few microseconds, then sleep: spinning for longer slows the tests down a
# hundredfold where they share the machine with anything else.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

begin=$(date +%s.%N)
"$@" >"$log" 2>&1 </dev/null
code=$?
seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
line=$(tail -n 1 "$log" | grep -E '^[0-9]+ passed, [0-9]+ failed')
passed=$(sed -nE 's/^([0-9]+) passed.*/\1/p' <<<"$line")
failed=$(sed -nE 's/.* ([0-9]+) failed.*/\1/p' <<<"$line")
skipped=$(grep -c '^skipped' "$log")
if [ -z "$line" ] || [ $((passed + failed)) -eq 0 ]; then passed=0 failed=1; fi
if [ "$code" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
verdict=ok
if [ "$failed" -ne 0 ]; then verdict=FAILED; fi
printf '%-6s %-34s %7d passed %3d failed %3d skipped %7s s\n' \
    "$verdict" "$name" "$passed" "$failed" "$skipped" "$seconds"
grep '^skipped' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\) /         \1x /'
printf '%d %d %d %s %s\n' "$passed" "$failed" "$skipped" "$seconds" "$name" >>build/tests/results
if [ "$verdict" = FAILED ]; then
    echo "--- $name: the last lines of $log (exit code $code)"
    tail -n 40 "$log"
    exit 1
fi
