#!/usr/bin/env bash
# scripts/test.sh              everything that needs no PyTorch
# scripts/test.sh --reference  also the checks against PyTorch, transformers, tokenizers and OLMo-core
#
# Sets itself up: says what it installs and why. Every suite is one line; the last line is the sum.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
reference=no
case "${1:-}" in
    "") ;;
    --reference) reference=yes ;;
    -h | --help)
        sed -n '2,5s/^# \{0,1\}//p' scripts/test.sh
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
cuda=no
if setup_cuda && dev/cuda_on_cpu/run.sh --available; then cuda=yes; fi
if [ $reference = yes ]; then setup_reference || exit 1; fi
python=.venv/bin/python

rm -f build/tests/results
mkdir -p build/tests
suite() { dev/test/suite.sh "$@"; }

# All suites of a target. One that does not build prints no figures, so a failed target counts as a failure
# itself.
target() { make -s -k "$@" || printf '0 1 0 0 make %s\n' "$1" >>build/tests/results; }
begin=$(date +%s)

# Built two at a time, run one at a time, so that the seconds of a suite are its own.
make -s -k -j "$(getconf _NPROCESSORS_ONLN)" programs || echo "what did not build fails below"
target test
target sanitize
if [ $cuda = yes ]; then
    # Each of these suites keeps one core busy, so they run side by side.
    make -s -k -j "$(getconf _NPROCESSORS_ONLN)" cuda_programs || echo "what did not build fails below"
    target test_cuda -j "$(getconf _NPROCESSORS_ONLN)"
else
    say "skipped: the CUDA program (what is missing, and how to get it, stands above)"
fi
target warnings
if have clang; then target fuzz; else say "skipped: fuzz targets (clang not installed)"; fi
suite "crash" "$python" dev/test/test_crash.py
suite "data scripts" "$python" dev/test/test_data.py
suite "formulas of dev/doc" "$python" dev/doc/check.py
suite "pretrain scripts" "$python" dev/test/test_pretrain.py
suite "GPU report" "$python" dev/test/test_gpu_report.py
suite "CPU bench" "$python" dev/test/test_bench_cpu.py

if [ $reference = yes ]; then
    target drivers
    suite "reference" "$python" dev/reference/test_reference.py
    suite "dumps" "$python" dev/reference/dump.py --check
    suite "bf16 floor" "$python" dev/reference/bf16_floor.py --check
    for check in dev/test/reference_*.py; do
        name=$(basename "$check" .py)
        suite "$name" "$python" "$check"
    done
else
    say "not run: the checks against PyTorch and its ecosystem (scripts/test.sh --reference)"
fi

awk -v seconds="$(($(date +%s) - begin))" '
    { passed += $1; failed += $2; skipped += $3 }
    END {
        printf "%d suites in %d s\n", NR, seconds
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0 || passed == 0
    }' build/tests/results
