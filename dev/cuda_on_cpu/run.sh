#!/usr/bin/env bash
# run.sh FILE.cu [OBJECT.o...] [--check] [-o PROGRAM] [compiler flags] [-- arguments]: builds any .cu for the
# CPU and runs it.
#   --check    with the checker: races, bounds, alignment, memory traffic
# A file named in a flag (-DBACKEND='"other.cu"') is translated like one that is included by its name.
# rules.mk uses two more: --build only builds, --object compiles a source of the emulator. --available says
# what was found or is missing. Environment: CLANGXX (clang++), CUDA_HOME, CUBLAS_INCLUDE (a folder with
# cublas_v2.h). The exit code is the program's; 77: something that the build needs is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/build/cuda_on_cpu

check='' mode=run program='' source='' flags=() links=() arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --check) check=1 ;;
    --build | --object | --available) mode=${1#--} ;;
    -o) program=$2 && shift ;;
    --)
        shift
        arguments=("$@")
        break
        ;;
    -*) flags+=("$1") ;;
    *.o) links+=("$1") ;;
    *) source=$1 ;;
    esac
    shift
done

# ---------------------------------------------------------------------------------------------
# What the build needs

missing() {
    printf 'skipped: %s\n' "$@" >&2
    exit 77
}

clang=${CLANGXX:-clang++}
command -v "$clang" >/dev/null ||
    missing "no $clang. Install clang (Debian: apt-get install clang), or set CLANGXX."

# The first of these folders that contains the file. NVIDIA's Python packages have headers, too.
packages=("$root"/.venv/lib/python3*/site-packages/nvidia/*/include)
folder_of() {
    local file=$1 folder
    shift
    for folder in "$@" "${packages[@]}"; do
        if [ -n "$folder" ] && [ -f "$folder/$file" ]; then
            echo "$folder"
            return
        fi
    done
}
nvcc=$(command -v nvcc || true)
nvcc_home=
if [ -n "$nvcc" ]; then nvcc_home=$(dirname "$(dirname "$(readlink -f "$nvcc")")"); fi
cuda=$(folder_of cuda_runtime.h "${CUDA_HOME:+$CUDA_HOME/include}" "$nvcc_home/include" \
    /usr/local/cuda/include)
cublas=$(folder_of cublas_v2.h "${CUBLAS_INCLUDE:-}" "$cuda")
[ -n "$cuda" ] ||
    missing "no cuda_runtime.h. Install the CUDA Toolkit (its headers are enough), or set CUDA_HOME."
if [ "$mode" = available ]; then
    echo "$clang, $cuda, ${cublas:-no cublas_v2.h (pip install nvidia-cublas)}"
    exit
fi

common=(-std=c++17 -Wall -Wextra -gline-tables-only -isystem "$cuda")
if [ -n "$cublas" ] && [ "$cublas" != "$cuda" ]; then common+=(-isystem "$cublas"); fi

if [ "$mode" = object ]; then
    mkdir -p "$(dirname "$program")"
    native=-march=native
    if [ "$(uname -m)" != x86_64 ]; then native=-mcpu=native; fi
    if [ "$(basename "$source")" = cublas.cpp ] && [ -z "$cublas" ]; then source=/dev/null; fi
    "$clang" "${common[@]}" -O3 "$native" -ffp-contract=fast -x c++ -c "$source" -o "$program.$$"
    mv "$program.$$" "$program"
    exit
fi

[ -n "$source" ] || { sed -n '2,8s/^# //p' "$0" && exit 1; }
[ -f "$source" ] || { echo "error: there is no file $source" >&2 && exit 1; }
source=$(realpath "$source")
name=${source%.cu}
name=${name#"$root"/}
name=${name#/}
kind=plain
if [ -n "$check" ]; then kind=check; fi
if [ -n "$program" ]; then
    program=$(realpath -m "$program")
else
    program=$out/$kind/$name
    if [ ${#flags[@]} -gt 0 ]; then program+=-$(cksum <<<"${flags[*]}" | cut -d' ' -f1); fi
fi

# ---------------------------------------------------------------------------------------------
# Translation: the .cu and all files that it includes by quotes are copied to a tree of the same shape, where
# relative includes find the translated files. Line numbers and names stay those of the originals.

declare -A seen=()
search=("$root")
for flag in "${flags[@]}"; do
    if [[ $flag == -I?* ]]; then search+=("$(realpath "${flag#-I}")"); fi
done

translate() {
    local file copy include folder
    file=$(realpath "$1")
    if [ -n "${seen[$file]:-}" ]; then return; fi
    seen[$file]=1
    copy=$out/tree$file
    mkdir -p "$(dirname "$copy")"
    {
        printf '#line 1 "%s"\n' "${file#"$root"/}"
        case $file in
        *.cu | *.cuh | "$source") sed -E -f "$here/cu2cpp.sed" "$file" ;;
        *) cat "$file" ;;
        esac
    } >"$copy.$$"
    if cmp -s "$copy.$$" "$copy"; then rm "$copy.$$"; else mv "$copy.$$" "$copy"; fi
    while read -r include; do
        for folder in "$(dirname "$file")" "${search[@]}"; do
            if [ -f "$folder/$include" ]; then
                translate "$folder/$include"
                break
            fi
        done
    done < <(
        sed -nE 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"([^"]*)".*/\1/p' "$file"
        printf '%s\n' "${flags[@]}" | sed -nE 's/^-D[A-Za-z0-9_]+="(.*)"$/\1/p'
    )
}

# ---------------------------------------------------------------------------------------------
# Compilation

build() {
    local includes=() folder optimise=(-O2) stack=()
    local objects=(cuda_on_cpu.o runtime.o report.o ptx.o cublas.o)
    # A frame larger than a fiber's stack must touch the page that ends it.
    if [ "$(uname -m)" = x86_64 ]; then stack=(-fstack-clash-protection); fi
    translate "$source"
    for folder in "${search[@]}"; do includes+=(-I "$out/tree$folder" -I "$folder"); done
    if [ -n "$check" ]; then
        objects+=(checker.o)
        # The compiler must not merge, split or move memory accesses before they are instrumented.
        optimise=(-O1 -fno-vectorize -fno-slp-vectorize -mllvm -disable-loop-idiom-all -fsanitize=thread
            -mllvm -tsan-instrument-func-entry-exit=0 -mllvm -tsan-instrument-read-before-write=1)
    fi
    mkdir -p "$(dirname "$program")"
    # Compiled from the root, so messages and line tables show names relative to it.
    (cd "$root" && "$clang" "${common[@]}" "${optimise[@]}" "${stack[@]}" -ffp-contract=off -Wno-pass-failed \
        -ftemplate-backtrace-limit=1 -fmacro-backtrace-limit=1 "${includes[@]}" \
        -include "$here/cuda_on_cpu.h" "${flags[@]}" -MMD -MP -MF "$program.d.$$" -MT "${program#"$root"/}" \
        -x c++ -c "$out/tree$source" -o "$program.o.$$")
    # make must watch the originals, not the copies.
    sed -e "s|$out/tree$root/||g; s|$out/tree/|/|g; s|$root/||g" "$program.d.$$" >"$program.d"
    # Linked without -fsanitize=thread: the checker replaces its runtime.
    "$clang" -rdynamic "$program.o.$$" "${links[@]}" "${objects[@]/#/$out/}" -ldl -lm -o "$program.$$"
    mv "$program.$$" "$program"
    rm "$program.d.$$" "$program.o.$$"
}

if [ "$mode" = build ]; then
    build
    exit
fi
if [ "$program" = "$out/$kind/$name" ] && [ "$source" = "$root/$name.cu" ] && [ ${#flags[@]} -eq 0 ]; then
    make -s -C "$root" -f "$here/rules.mk" "build/cuda_on_cpu/$kind/$name" >&2
else
    make -s -C "$root" -f "$here/rules.mk" cuda_on_cpu_objects >&2
    build
fi
exec "$program" "${arguments[@]}"
