#!/usr/bin/env bash
# test_warnings.sh: compiles everything with gcc and clang at -Wall -Wextra -Werror, with and without OpenMP.
# Every header is compiled by itself, included twice, as C11 with gcc and as C++17 with clang++, and together
# with all others the other way round. Scripts are parsed. No file is written.
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

# The headers of dev/ablations are not among these: they continue train_olmo2.c, which includes them.
headers=(llmc/*.h llmc/*/*.h)
sources=(train_olmo2.c test_olmo2.c dev/test/*.c dev/bench/*.c dev/cpu/*.c)
flags=(-D_GNU_SOURCE -Wall -Wextra -Werror -ffp-contract=fast -I. -fsyntax-only)

include() { printf '#include "%s"\n' "$@"; }

# check_sources CC: as C11
check_sources() {
    local file
    for file in "${sources[@]}"; do try "$1 $file" "$1" -std=c11 -O2 "${flags[@]}" -fopenmp "$file"; done
    try "$1 train_olmo2.c without OpenMP" "$1" -std=c11 -O2 "${flags[@]}" -Wno-unknown-pragmas train_olmo2.c
}

# check_headers COMPILER STANDARD LANGUAGE: each header by itself, twice
check_headers() {
    local header
    for header in "${headers[@]}"; do
        try "$1 $2 $header" "$1" -std="$2" "${flags[@]}" -fopenmp -x "$3" - \
            <<<"$(include "$header" "$header")"
    done
}

# check_all_headers COMPILER STANDARD LANGUAGE: all of them at once, in a twentieth of the time
check_all_headers() {
    try "$1 $2 all headers" "$1" -std="$2" "${flags[@]}" -fopenmp -x "$3" - <<<"$(include "${headers[@]}")"
}

for cc in gcc clang; do
    if command -v $cc >/dev/null; then check_sources $cc; else echo "skipped: $cc (not installed)"; fi
done
if command -v gcc >/dev/null; then check_headers gcc c11 c; else check_headers clang c11 c; fi
if command -v clang++ >/dev/null; then
    check_headers clang++ c++17 c++
    check_all_headers clang c11 c
elif command -v g++ >/dev/null; then
    check_headers g++ c++17 c++
else
    echo "skipped: the headers as C++ (neither clang++ nor g++ is installed)"
fi
if command -v g++ >/dev/null; then check_all_headers g++ c++17 c++; fi

# Scripts are parsed, so that a slip in a branch that no test takes is found.
for script in scripts/*.sh dev/*/*.sh .ci/*; do try "bash -n $script" bash -n "$script"; done
try "syntax of the Python scripts" python3 -c 'import ast, sys
for name in sys.argv[1:]: ast.parse(open(name).read(), name)' {data,scripts,dev,dev/*}/*.py

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
