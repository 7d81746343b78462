#!/usr/bin/env bash
# scripts/pretrain_190M.sh [options] TOKENS... [-- flags of train]: OLMo 2 with 190M parameters, the first
# size of OLMo-core's ladder, on 7.6e9 tokens.
set -euo pipefail

# From github.com/allenai/OLMo-core: src/olmo_core/model_ladder.py, src/scripts/train/OLMo2/OLMo2-ladder.py.
# With sequences of 4,096 tokens and N = 190,354,176 parameters (all except the input embedding):
#   batch   160 (N / 108e6)^(2/3) / 2 sequences, rounded to a multiple of 64: 128
#   lr      0.0047 (N / 108e6)^(-1/3) / 4 = 9.73e-4
#   warmup  N tokens: 363 steps;  length  40 N tokens, its "2xC"
# The ladder has no z-loss. It is kept here because the released sizes have it.
recipe=(
    --config 190M --seq-len 4096 --batch-size 128 --tokens 7614167040
    --lr 9.73e-4 --schedule cosine --warmup-steps 363 --final-lr-fraction 0.1
    --beta1 0.9 --beta2 0.95 --adam-eps 1e-8 --weight-decay 0.1 --clip 1 --z-loss 1e-5
    --instance-filter on --skip-step off --seed 6198
    --save-every 250 --eval-every 500 --log-every 10
)
# shellcheck source-path=SCRIPTDIR source=pretrain.sh
. "$(dirname "${BASH_SOURCE[0]}")/pretrain.sh"
