#!/usr/bin/env bash
# suite.sh NAME COMMAND...: runs a test program, prints one line about it, and appends one to
# build/tests/results. The program's last line must be "N passed, N failed". The suite fails without that
# line, with another exit code than 0, or if nothing passed. The output of a failed suite is shown; lines that
# begin with "skipped" always are. Suites may run side by side: each prints and appends in one piece.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
name=$1
shift
mkdir -p build/tests
log=build/tests/$(tr ' /' '__' <<<"$name").log

# OpenMP threads that wait spin for microseconds, then sleep. If they spun longer, they would slow the tests
# down a hundredfold on a machine that has other work.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}

# Seconds on the clock, then those of the processors, which other work on the machine hardly changes.
TIMEFORMAT='%R %U %S'
times=$({ time "$@" >"$log" 2>&1 </dev/null; } 2>&1)
code=$?
read -r seconds user system <<<"$times"
line=$(tail -n 1 "$log" | grep -E '^[0-9]+ passed, [0-9]+ failed')
passed=$(sed -nE 's/^([0-9]+) passed.*/\1/p' <<<"$line")
failed=$(sed -nE 's/.* ([0-9]+) failed.*/\1/p' <<<"$line")
skipped=$(grep -c '^skipped' "$log")
if [ -z "$line" ] || [ $((passed + failed)) -eq 0 ]; then passed=0 failed=1; fi
if [ "$code" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
verdict=ok
[ "$failed" -eq 0 ] || verdict=FAILED
processor=$(awk -v a="$user" -v b="$system" 'BEGIN { printf "%.1f", a + b }')
printf '%d %d %d %s %s %s\n' "$passed" "$failed" "$skipped" "$seconds" "$processor" "$name" \
    >>build/tests/results

shown=$(
    printf '%-6s %-34s %7d passed %3d failed %3d skipped %7.1f s %7.1f s of CPU\n' \
        "$verdict" "$name" "$passed" "$failed" "$skipped" "$seconds" "$processor"
    grep '^skipped' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\) /         \1x /'
    if [ "$verdict" = FAILED ]; then
        printf -- '--- %s: the last lines of %s (exit code %d)\n' "$name" "$log" "$code"
        tail -n 40 "$log"
    fi
)
printf '%s\n' "$shown"
[ "$verdict" = ok ]
