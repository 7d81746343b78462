#!/usr/bin/env bash
# scripts/gpu_report.sh [options]: tests, times and compares everything on this machine's GPU, and writes a
# report in Markdown.
#   --out FILE     the report (dev/cuda/REPORT-DEVICE.md)
#   --sizes LIST   sizes to train ("190M 1B")
#   --steps N      training steps of each size (12)
# The report compares train_olmo2cu with PyTorch if .venv, or the Python named by PYTHON (python3), has a
# PyTorch that finds the GPU. The output of all programs stays in build/gpu_report.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
out='' sizes='190M 1B' steps=12
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n 's/^# \{0,1\}//; 2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d'
            exit 0
            ;;
        --out | --sizes | --steps)
            if [ $# -lt 2 ]; then
                complain "$1 needs a value"
                exit 2
            fi
            if [ "$1" = --steps ] && ! [[ $2 =~ ^[1-9][0-9]{0,5}$ ]]; then
                complain "--steps $2: expected a whole number from 1 to 999999"
                exit 2
            fi
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        *)
            complain "unknown argument '$1'; see --help"
            exit 2
            ;;
    esac
    shift
done
[ -z "$out" ] || out=$(from_root "$out")
cd "$root"
if ! device=$(gpu name); then
    complain "nvidia-smi finds no GPU; 'make test_cuda' tests the kernels without one"
    exit 1
fi
setup_build_tools
[ -x .venv/bin/python ] || setup_venv
if ! setup_cuda; then
    complain "the report needs nvcc to build the programs"
    exit 1
fi
out=${out:-dev/cuda/REPORT-${device// /-}.md}
work=build/gpu_report
python=.venv/bin/python

# Kills the program that still runs when the script ends.
running=
trap '[ -z "$running" ] || kill -KILL "$running" 2>/dev/null' EXIT

# capture FILE COMMAND...: appends the command's output to the file, and its exit code if it failed
capture() {
    local file=$1 code=0
    shift
    "$@" >>"$file" 2>&1 || code=$?
    [ $code -eq 0 ] || printf '\nexit code %d: %s\n' $code "$*" >>"$file"
    return $code
}

# build PRECISION TARGET: builds it for this GPU, even if it exists for another one
build() { capture "$work/make.txt" make -B PRECISION="$1" CUDA_ARCH=native "$2"; }

# ---------------------------------------------------------------------------------------------
# what is measured

rm -rf "$work"
mkdir -p "$work"
cuda=$("${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>/dev/null || nvcc --version)
if commit=$(git rev-parse HEAD 2>/dev/null); then
    git diff --quiet HEAD || commit+=', with changes'
else
    commit='unknown: no git repository'
fi
{
    say "device: $device"
    say "memory: $(gpu memory.total) MiB, $(gpu memory.free) MiB free"
    say "power limit: $(gpu power.limit) W"
    say "driver: $(gpu driver_version)"
    say "CUDA: $(sed -nE 's/.*release [^,]*, V(.*)/\1/p' <<<"$cuda")"
    say "date: $(date -u +%Y-%m-%d)"
    say "commit: $commit"
} >"$work/facts"
cat "$work/facts"

step "build and test"
for precision in fp32 bf16; do # bf16 last: it is the Makefile's default, so its program may stay
    if build $precision build/test_olmo2cu; then
        capture "$work/test_olmo2cu_$precision.txt" build/test_olmo2cu || true
    else
        tail -n 20 "$work/make.txt" >"$work/test_olmo2cu_$precision.txt"
    fi
    tail -n 1 "$work/test_olmo2cu_$precision.txt"
done

step "time every kernel of dev/cuda, from its first version to the shipped one"
for source in dev/cuda/*.cu; do
    name=$(basename "$source" .cu)
    file=$work/ladder_$name.txt
    if ! build bf16 "build/cuda/$name"; then
        tail -n 20 "$work/make.txt" >"$file"
        say "$name: not built"
        continue
    fi
    capture "$file" "build/cuda/$name" || true
    last=$(sed -nE 's/^([0-9]+) .* (ok|FAILED) .*/\1/p' "$file" | sort -n | tail -n 1)
    for ((version = 1; version <= ${last:-0}; version++)); do
        capture "$file" "build/cuda/$name" "$version" || true
    done
    say "$name: $(grep -c ' us' "$file" || true) timings"
done

# ---------------------------------------------------------------------------------------------
# a training step

# steps_in LOG: how many steps it has
steps_in() {
    local count=0
    [ ! -f "$1" ] || count=$(grep -c '"type": "step"' "$1" || true)
    echo "$count"
}

# train_for NAME FLAGS...: trains the first steps of a run and keeps their log in $work/train_NAME.jsonl. The
# run is killed, because at its end it would write a checkpoint (18 GB for 1B).
train_for() {
    local name=$1 run=$work/run-$1
    shift
    ./train_olmo2cu train "$@" --out "$run" --steps 1000000 >"$work/train_$name.txt" 2>&1 &
    running=$!
    while kill -0 "$running" 2>/dev/null && [ "$(steps_in "$run/log.jsonl")" -lt "$steps" ]; do
        sleep 0.2
    done
    kill -KILL "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
    running=
    if [ "$(steps_in "$run/log.jsonl")" -ge "$steps" ]; then cp "$run/log.jsonl" "$work/train_$name.jsonl"; fi
    rm -rf "$run"
}

# Each size is trained with the first of these that leaves room for a sequence.
thrift=(
    ""
    "--master-weights off"
    "--master-weights off --moments bf16"
    "--master-weights off --moments bf16 --recompute block"
)

# train_size SIZE: trains with as many sequences as fit, and sets `largest` to that number
train_size() {
    local size=$1 memory flags output=$work/train_$1.txt tokens=$work/tokens.npy words
    memory=$(free_memory ./train_olmo2cu)
    largest=0
    for flags in "${thrift[@]}"; do
        read -ra words <<<"$flags"
        words=(--config "$size" --seq-len 4096 "${words[@]}")
        largest=$(largest_micro_batch ./train_olmo2cu "$memory" "${words[@]}" 2>"$output") || largest=0
        [ "$largest" -eq 0 ] || break
    done
    [ "$largest" -gt 0 ] || return 0
    words+=(--batch-size "$largest" --micro-batch-size "$largest")
    ./train_olmo2cu train "${words[@]}" --dry-run >"$work/train_$size.plan"
    "$python" dev/bench/gpu_report.py tokens "$tokens" $((4 * largest * 4096))
    words+=(--data "$tokens" --warmup-steps 10)
    train_for "$size" "${words[@]}"
    [ "$size" != "${sizes%% *}" ] || train_for "${size}_again" "${words[@]}"
}

# torch_size SIZE HOW SEQUENCES FLAGS...: the same step in PyTorch. If memory is too small, it tries again
# with half as many sequences.
torch_size() {
    local file=$work/torch_$1_$2.txt sequences=$3 code
    shift 3
    while [ "$sequences" -gt 0 ]; do
        code=0
        rm -f "$file"
        capture "$file" "$torch" dev/bench/bench_step.py --device cuda --dtype bf16 --steps "$steps" \
            --B "$sequences" "$@" || code=$?
        [ $code -eq 3 ] || break
        sequences=$((sequences / 2))
    done
}

# shape_of SIZE: its shape, from the plan, as flags of bench_step.py
shape_of() {
    sed -nE -e 's/^layers +([0-9]+) of ([0-9]+) channels/--L \1 --C \2/p' \
        -e 's/^heads +([0-9]+) for queries.*/--NH \1/p' -e 's/^feed-forward +([0-9]+) .*/--F \1/p' \
        -e 's/^vocabulary +([0-9]+) rows/--V \1/p' -e 's/^length +([0-9]+) tokens/--T \1/p' \
        "$work/train_$1.plan"
}

torch=
for candidate in .venv/bin/python "${PYTHON:-python3}"; do
    if "$candidate" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        torch=$candidate
        break
    fi
done
[ -n "$torch" ] || say "no comparison with PyTorch: .venv and ${PYTHON:-python3} have none that finds the GPU"
say "PyTorch: ${torch:-not compared, none here finds the GPU}" >>"$work/facts"

build bf16 train_olmo2cu || { complain "train_olmo2cu was not built: $work/make.txt" && exit 1; }
for size in $sizes; do
    step "train $size"
    train_size "$size"
    if [ ! -f "$work/train_$size.jsonl" ]; then
        tail -n 3 "$work/train_$size.txt"
        continue
    fi
    say "$largest sequences at once, $(steps_in "$work/train_$size.jsonl") steps"
    [ -n "$torch" ] || continue
    read -ra shape <<<"$(shape_of "$size" | tr '\n' ' ')"
    torch_size "$size" eager "$largest" "${shape[@]}"
    torch_size "$size" compiled "$largest" "${shape[@]}" --compile
    tail -qn 1 "$work/torch_${size}"_*.txt
done

step "report"
read -ra words <<<"$sizes"
"$python" dev/bench/gpu_report.py write "$work" --sizes "${words[@]}" --out "$out"
