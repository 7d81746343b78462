#!/usr/bin/env bash
# scripts/test.sh              every test that needs no PyTorch
# scripts/test.sh --reference  also the comparisons with PyTorch, transformers, tokenizers and OLMo-core
#
# Installs what it needs, and says what and why. Each suite prints one line, and the last line is the sum.
# --reference takes 13 minutes on two idle cores of an AMD EPYC (Zen 4), a quarter of it for building. Suites
# run side by side, so what counts is CPU time. A suite's line ends with its own.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
reference=no
case "${1:-}" in
    "") ;;
    --reference) reference=yes ;;
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' scripts/test.sh
        exit 0
        ;;
    *)
        echo "error: unknown argument '$1'; expected nothing or --reference" >&2
        exit 2
        ;;
esac
. scripts/setup.sh
setup_build_tools || exit 1
setup_test_tools
setup_venv || exit 1
programs=(programs)
suites=(units command_lines mutations sanitize warnings scripts)
if setup_cuda && dev/cuda_on_cpu/run.sh --available; then
    programs+=(cuda_programs)
    suites+=(test_cuda)
else
    say "skipped: the tests of the CUDA program (see above for what is missing and where to get it)"
fi
if have clang; then suites+=(fuzz); else say "skipped: fuzz targets (clang is not installed)"; fi
if [ $reference = yes ]; then
    setup_reference || exit 1
    suites+=(reference)
else
    say "not run: the comparisons with PyTorch and its ecosystem (scripts/test.sh --reference)"
fi

rm -f build/tests/results
mkdir -p build/tests
begin=$(date +%s)
jobs=$(getconf _NPROCESSORS_ONLN)

# run_suites TARGET...: a suite that does not build prints no line, so a failed make counts as one more
# failure.
run_suites() { make -s -k "$@" || printf '0 1 0 0 0 make %s\n' "$1" >>build/tests/results; }

make -s -k -j "$jobs" "${programs[@]}" || say "the suites of programs that did not build fail below"
say "built in $(($(date +%s) - begin)) s"
# The ladder of dev/cpu times its versions, so it runs alone. No other suite depends on the time it takes.
run_suites ladder
run_suites -j "$jobs" "${suites[@]}"

times >build/tests/times # of this shell, then of its children: 1m2.345s 0m1.234s
processor=$(awk -F '[ms ]+' 'END { printf "%.0f", 60 * ($1 + $3) + $2 + $4 }' build/tests/times)
awk -v seconds="$(($(date +%s) - begin))" -v processor="$processor" '
    { passed += $1; failed += $2; skipped += $3 }
    END {
        printf "%d suites in %d s, %d s of CPU\n", NR, seconds, processor
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0 || passed == 0
    }' build/tests/results
