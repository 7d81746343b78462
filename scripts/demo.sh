#!/usr/bin/env bash
# scripts/demo.sh [options] [DIR]: a small OLMo 2 learns to tell children's stories.
# Everything is written to DIR (runs/demo), which must not exist yet.
#   --minutes N   how long the training takes (3); the number of steps depends on the speed of this machine
#   --steps N     trains N steps of 2,048 tokens, however long they take
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=small_run.sh
. "$root/scripts/small_run.sh"
out=$root/runs/demo minutes=3 steps=''
folders=0
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n 's/^# \{0,1\}//; 2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d'
            exit 0
            ;;
        --minutes | --steps)
            if [ $# -lt 2 ]; then
                complain "$1 needs a value"
                exit 2
            fi
            if [ "$1" = --steps ]; then need_count "$1" "$2"; else need_number "$1" "$2"; fi
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        -*)
            complain "unknown option '$1'; see --help"
            exit 2
            ;;
        *)
            folders=$((folders + 1))
            out=$1
            ;;
    esac
    shift
done
if [ $folders -gt 1 ]; then
    complain "expected one folder, found $folders; see --help"
    exit 2
fi
out=$(from_root "$out")
cd "$root"
begin_folder "$out"
setup_build_tools
setup_venv

step "build the program"
run make train_olmo2

step "write stories, and hold 1 % of them out"
run .venv/bin/python data/primer.py --kind stories --count 20000 --out "$out/data"

step "learn a vocabulary of 2,048 tokens from them, and turn the text into tokens"
run .venv/bin/python data/train_bpe.py --vocab-size 2048 --out "$out/tokenizer.json" "$out/data/train.jsonl"
for part in "$out/data/train" "$out/data/val"; do
    run ./train_olmo2 tokenize --tokenizer "$out/tokenizer.json" --out "$part.npy" "$part.jsonl"
done

flags=(
    --config 14M --tokenizer "$out/tokenizer.json" --data "$out/data/train.npy" --val-data "$out/data/val.npy"
    --seq-len 256 --batch-size 8 --lr 3e-3 --schedule linear --skip-step on
    --log-every 10 --eval-instances 64
)
if [ -z "$steps" ]; then
    step "time a few training steps, and plan the run"
    milliseconds=$(step_milliseconds "${flags[@]}")
    # Below 600 steps the stories are not readable, and beyond 20 passes over the text they do not improve.
    tokens=$(($(wc -c <"$out/data/train.npy") / 4))
    plan_steps "$minutes" "$milliseconds" 600 "$((tokens * 20 / 2048))"
fi
step "train $steps steps; Ctrl-C stops early and keeps what was learned"
run ./train_olmo2 train "${flags[@]}" --out "$out/model" --steps "$steps" --save-every 0 \
    --warmup-steps "$((steps < 500 ? steps / 10 : 50))" \
    --eval-every "$((steps > 600 ? steps / 6 : 100))" --sample-every "$((steps > 600 ? steps / 3 : 200))" \
    --sample-prompt "Once upon a time" --sample-tokens 60 --temperature 0.7

step "plot the run"
run .venv/bin/python scripts/plot.py "$out/model" --out "$out/plot.png"

step "let it tell stories"
for prompt in "Once upon a time" "Not so long ago" "There once was a girl named"; do
    run ./train_olmo2 generate --load "$out/model" --prompt "$prompt" --max-tokens 260 --temperature 0.5
done

step "done"
model=$(printf '%q' "$out/model")
say "the curves:      $out/plot.png"
say "another story:   ./train_olmo2 generate --load $model --prompt 'Once upon a time' --seed 2"
say "your own text:   scripts/train_text.sh FILES..."
