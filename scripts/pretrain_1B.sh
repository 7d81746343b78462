#!/usr/bin/env bash
# scripts/pretrain_1B.sh [options] TOKENS... [-- flags of train]: OLMo 2 1B as in stage 1 of its release, on
# 4e12 tokens. That takes one GPU years; -- --tokens N shortens it.
set -euo pipefail

# From configs/official-0425/OLMo2-1B-stage1.yaml of github.com/allenai/OLMo. Its warmup of 8,388,608,000
# tokens is 4,000 steps of 512 x 4,096. The cosine falls to a tenth over 5e12 tokens, and the run was stopped
# after 4e12. The z-loss weight is that of the file; the trainer published with it uses 1e-4 instead.
recipe=(
    --config 1B --seq-len 4096 --batch-size 512 --tokens 5e12 --stop-at 1907359
    --lr 4e-4 --schedule cosine --warmup-steps 4000 --final-lr-fraction 0.1
    --beta1 0.9 --beta2 0.95 --adam-eps 1e-8 --weight-decay 0.1 --clip 1 --z-loss 1e-5
    --instance-filter on --skip-step off --seed 6198
    --save-every 1000 --eval-every 1000 --log-every 10
)
# shellcheck source-path=SCRIPTDIR source=pretrain.sh
. "$(dirname "${BASH_SOURCE[0]}")/pretrain.sh"
