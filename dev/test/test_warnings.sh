#!/usr/bin/env bash
# test_warnings.sh: compiles everything with gcc and clang at -Wall -Wextra -Werror, with and without OpenMP.
# Every header is compiled by itself, included twice, as C11 and as C++17. Only checks: no file is written.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0

try() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $what"
    fi
}

# The headers of the library and of the commands. Those of dev/ablations belong in the middle of train_olmo2.c,
# which includes them.
headers=(llmc/*.h llmc/*/*.h)
sources=(train_olmo2.c test_olmo2.c dev/test/*.c dev/bench/*.c dev/cpu/*.c)

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
    for file in "${sources[@]}"; do
        # shellcheck disable=SC2086
        try "$cc $file" "$cc" -std=c11 -O2 $flags -fopenmp "$file"
    done
    # shellcheck disable=SC2086
    try "$cc train_olmo2.c without OpenMP" "$cc" -std=c11 -O2 $flags -Wno-unknown-pragmas train_olmo2.c
    for header in "${headers[@]}"; do
        twice="#include \"$header\"
#include \"$header\""
        # shellcheck disable=SC2086
        try "$cc $header" "$cc" -std=c11 $flags -fopenmp -x c - <<<"$twice"
        [ -n "$cxx" ] || continue
        # shellcheck disable=SC2086
        try "$cxx $header" "$cxx" -std=c++17 $flags -fopenmp -x c++ - <<<"$twice"
    done
done

# Scripts are at least parsed, so that a slip in a branch that no test takes is found.
for script in scripts/*.sh dev/*/*.sh .ci/*; do try "bash -n $script" bash -n "$script"; done
if command -v python3 >/dev/null; then
    for script in data/*.py scripts/*.py dev/*.py dev/*/*.py; do
        try "syntax of $script" python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$script"
    done
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
