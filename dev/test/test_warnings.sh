#!/usr/bin/env bash
# Compiles everything with gcc and clang at -Wall -Wextra -Werror, with and without OpenMP, and every header
# alone, included twice, as C11 and as C++17. Only looks: no file is written.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0

try() {  # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $what"
    fi
}

flags="-D_GNU_SOURCE -Wall -Wextra -Werror -ffp-contract=fast -I. -fsyntax-only"
for compiler in "gcc g++" "clang clang++"; do
    read -r cc cxx <<<"$compiler"
    if ! command -v "$cc" >/dev/null; then
        echo "skipped: $cc (not installed)"
        continue
    fi
    if ! command -v "$cxx" >/dev/null; then
        echo "skipped: the headers as C++ with $cxx (not installed)"
        cxx=
    fi
    for file in train_olmo2.c test_olmo2.c dev/test/*.c dev/bench/*.c dev/cpu/*.c; do
        # shellcheck disable=SC2086
        try "$cc $file" "$cc" -std=c11 -O2 $flags -fopenmp "$file"
    done
    # shellcheck disable=SC2086
    try "$cc train_olmo2.c without OpenMP" "$cc" -std=c11 -O2 $flags -Wno-unknown-pragmas train_olmo2.c
    for header in llmc/*.h; do
        twice="#include \"$header\"
#include \"$header\""
        # shellcheck disable=SC2086
        try "$cc $header" "$cc" -std=c11 $flags -fopenmp -x c - <<<"$twice"
        [ -n "$cxx" ] || continue
        # shellcheck disable=SC2086
        try "$cxx $header" "$cxx" -std=c++17 $flags -fopenmp -x c++ - <<<"$twice"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
