#!/usr/bin/env bash
# scripts/demo.sh [DIR]: a small OLMo 2 learns to tell children's stories, about three minutes on two cores.
# Everything is written to DIR (runs/demo), which must not exist yet.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case ${1:-} in
    -h | --help)
        sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*)
        complain "unknown option '$1'; see --help"
        exit 2
        ;;
esac
out=$(from_root "${1:-$root/runs/demo}")
cd "$root"
refuse_existing "$out"
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

step "train: about three minutes; Ctrl-C stops early and keeps what was learned"
run ./train_olmo2 train --config 14M --tokenizer "$out/tokenizer.json" --out "$out/model" \
    --data "$out/data/train.npy" --val-data "$out/data/val.npy" --seq-len 256 --batch-size 8 --steps 2400 \
    --lr 3e-3 --warmup-steps 50 --schedule linear --log-every 10 --eval-every 400 --eval-instances 64 \
    --save-every 0 --sample-every 800 --sample-prompt "Once upon a time" --sample-tokens 60 --temperature 0.7

step "plot the run"
run .venv/bin/python scripts/plot.py "$out/model" --out "$out/plot.png"

step "let it tell stories"
for prompt in "Once upon a time" "Not so long ago" "There once was a girl named"; do
    run ./train_olmo2 generate --load "$out/model" --prompt "$prompt" --max-tokens 260 --temperature 0.5
done

step "done"
say "the curves:      $out/plot.png"
say "another story:   ./train_olmo2 generate --load $out/model --prompt 'Once upon a time' --seed 2"
say "your own text:   scripts/train_text.sh FILES..."
