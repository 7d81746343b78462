#!/usr/bin/env bash
# scripts/train_text.sh [options] FILES...: trains a small OLMo 2 on your own text.
#
# FILES are .txt or .jsonl files (also .gz or .zst), folders of them, or URLs. Long .txt files are cut at
# paragraph ends; one document in twenty is held out for validation.
#   --out DIR        where everything is written; must not exist yet (runs/text)
#   --config SIZE    size of the model: 14M, 30M, 60M ... (30M)
#   --vocab-size N   number of tokens in the vocabulary (512 to 4096, depending on the length of the text)
#   --minutes N      how long the training takes (10); the number of steps depends on the speed of this
#                    machine and stays below 20 passes over the text
#   --steps N        trains N steps of 2,048 tokens, however long they take
#   --prompt TEXT    how the samples begin (as a new document)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=small_run.sh
. "$root/scripts/small_run.sh"
out=$root/runs/text config=30M vocab_size='' minutes=10 steps='' prompt='' files=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n 's/^# \{0,1\}//; 2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d'
            exit 0
            ;;
        --out | --config | --vocab-size | --minutes | --steps | --prompt)
            if [ $# -lt 2 ]; then
                complain "$1 needs a value"
                exit 2
            fi
            case $1 in
                --minutes) need_number "$1" "$2" ;;
                --vocab-size | --steps) need_count "$1" "$2" ;;
            esac
            name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift
            ;;
        -*)
            complain "unknown option '$1'; see --help"
            exit 2
            ;;
        *) files+=("$(from_root "$1")") ;;
    esac
    shift
done
if [ ${#files[@]} -eq 0 ]; then
    complain "no text was named: scripts/train_text.sh FILES..."
    exit 2
fi
out=$(from_root "$out")
cd "$root"
begin_folder "$out"
setup_build_tools
setup_venv

step "build the program"
run make train_olmo2

step "cut the text into documents, and hold 5 % of them out"
run .venv/bin/python data/text.py "${files[@]}" --out "$out/data"

# A token should be seen often enough to be learned: about a thousand characters of text for each.
if [ -z "$vocab_size" ]; then
    characters=$(wc -c <"$out/data/train.jsonl")
    for vocab_size in 4096 2048 1024 512; do
        [ "$((characters / 1000))" -lt "$vocab_size" ] || break
    done
fi
step "learn a vocabulary of $vocab_size tokens from it, and turn the text into tokens"
run .venv/bin/python data/train_bpe.py --vocab-size "$vocab_size" \
    --out "$out/tokenizer.json" "$out/data/train.jsonl"
for part in "$out/data/train" "$out/data/val"; do
    run ./train_olmo2 tokenize --tokenizer "$out/tokenizer.json" --out "$part.npy" "$part.jsonl"
done

flags=(
    --config "$config" --tokenizer "$out/tokenizer.json" --data "$out/data/train.npy"
    --val-data "$out/data/val.npy" --seq-len 256 --batch-size 8 --lr 2e-3 --schedule linear --skip-step on
    --log-every 10 --eval-instances 100
)
if [ -z "$steps" ]; then
    step "time a few training steps, and plan the run"
    milliseconds=$(step_milliseconds "${flags[@]}")
    tokens=$(($(wc -c <"$out/data/train.npy") / 4))
    most=$((tokens * 20 / 2048))
    plan_steps "$minutes" "$milliseconds" 50 "$((most > 50 ? most : 50))"
fi
every=$((steps > 1000 ? steps / 10 : 100)) # steps from one validation and sample to the next
step "train $steps steps; Ctrl-C stops early and keeps what was learned"
run ./train_olmo2 train "${flags[@]}" --out "$out/model" --steps "$steps" \
    --warmup-steps "$((steps < 1000 ? steps / 10 : 100))" --save-every 500 --eval-every "$every" \
    --sample-every "$every" --sample-prompt "$prompt" --sample-tokens 80 --temperature 0.8

step "measure it on all the text that was held out"
run ./train_olmo2 eval --load "$out/model" --data "$out/data/val.npy"

step "plot the run"
run .venv/bin/python scripts/plot.py "$out/model" --out "$out/plot.png"

step "samples"
for seed in 1 2 3; do
    run ./train_olmo2 generate --load "$out/model" --prompt "$prompt" --max-tokens 200 --temperature 0.8 \
        --seed $seed
done

step "done"
model=$(printf '%q' "$out/model")
say "the curves:   $out/plot.png"
say "more text:    ./train_olmo2 generate --load $model --prompt '...' --temperature 0.8"
