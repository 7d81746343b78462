# shellcheck shell=bash
# pretrain.sh: what pretrain_190M.sh and pretrain_1B.sh share. They set `recipe`: flags of train, each with
# its value. This file reads the command line, builds the program, finds how many sequences fit into memory,
# and starts the run or resumes it.

# The second half of their --help:
#   --out RUN         folder of the run (runs/pretrain-SIZE); a run with a checkpoint is resumed
#   --val-data FILE   token file held out for validation; may be given several times
#   --tokenizer FILE  copied into the checkpoints; with it, validation reports bits per byte
#   --program FILE    the program that trains (./train_olmo2cu); ./train_olmo2 is the same for the CPU
#   --memory BYTES    how much memory it may use, such as 24G (default: what is free now)
# TOKENS are token files or quoted globs. Flags of train after "--" replace those of the recipe, for example
#   -- --tokens 1e10 --warmup-steps 400
# (paths there are relative to the project's folder). A small GPU needs --master-weights off; if that is not
# enough, also --moments bf16, then --recompute block.

# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# without FLAG...: removes these flags and their values from `recipe`
without() {
    local kept=() i
    for ((i = 0; i < ${#recipe[@]}; i += 2)); do
        [[ " $* " == *" ${recipe[i]} "* ]] || kept+=("${recipe[@]:i:2}")
    done
    recipe=("${kept[@]}")
}

# value_of FLAG WORDS...: the value of the flag among the words, or nothing
value_of() {
    local flag=$1
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            "$flag") printf '%s' "${2:-}" ;;
            "$flag"=*) printf '%s' "${1#*=}" ;;
        esac
        shift
    done
}

say_where_tokens_come_from() {
    complain "expected token files: $0 'mix/*.npy'"
    cat >&2 <<'HINT'
To make some, for example from a part of OLMo 2's own mix with the tokenizer.json of an OLMo 2 model:
  .venv/bin/python data/olmo_mix.py --mix olmo-mix-1124 --source wiki --max-bytes 4e9 --out mix
  ./train_olmo2 tokenize --tokenizer tokenizer.json --out mix/train.npy mix/train.jsonl
  ./train_olmo2 tokenize --tokenizer tokenizer.json --out mix/val.npy mix/val.jsonl
HINT
}

# has_checkpoint RUN: whether there is something to resume
has_checkpoint() {
    local checkpoint
    for checkpoint in "$1"/step-*; do
        if [ -d "$checkpoint" ]; then return 0; fi
    done
    return 1
}

say_where_curves_are() { say "the curves:  .venv/bin/python scripts/plot.py $(printf '%q' "$out")"; }

# ---------------------------------------------------------------------------------------------
# the command line

size=$(value_of --config "${recipe[@]}")
out=$root/runs/pretrain-$size program=$root/train_olmo2cu memory='' tokenizer=() data=() val_data=() flags=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n 's/^# \{0,1\}//; 2,/^set/p' "$0" | sed '$d'
            sed -n '/^# The second half/,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed 1d
            exit 0
            ;;
        --)
            shift
            flags=("$@")
            break
            ;;
        --out | --program | --memory | --tokenizer | --val-data)
            if [ $# -lt 2 ]; then
                complain "$1 needs a value"
                exit 2
            fi
            case $1 in
                --tokenizer) tokenizer=(--tokenizer "$(from_root "$2")") ;;
                --val-data) val_data+=(--val-data "$(from_root "$2")") ;;
                *) printf -v "${1#--}" '%s' "$2" ;;
            esac
            shift
            ;;
        -*)
            complain "unknown option '$1'; see --help (flags of train come after --)"
            exit 2
            ;;
        *) data+=("$(from_root "$1")") ;;
    esac
    shift
done
out=$(from_root "$out") program=$(from_root "$program")
cd "$root" || exit 1
case $program in */*) ;; *) program=./$program ;; esac

# Flags that were given replace those of the recipe.
# ("${flags[@]+...}", because the bash of macOS takes an empty array for an unset one.)
given=()
for word in ${flags[@]+"${flags[@]}"}; do
    case ${word%%=*} in
        --steps | --tokens | --epochs) given+=(--steps --tokens --epochs) ;;
        --*) given+=("${word%%=*}") ;;
    esac
done
without ${given[@]+"${given[@]}"}

resumes=no
if has_checkpoint "$out"; then resumes=yes; fi
if [ $resumes = no ] && [ ${#data[@]} -eq 0 ]; then
    say_where_tokens_come_from
    exit 2
fi

# ---------------------------------------------------------------------------------------------
# the program and its device

case $program in
    ./train_olmo2 | ./train_olmo2cu)
        step "build the program"
        setup_build_tools
        if [ "$program" = ./train_olmo2cu ]; then
            setup_venv
            if ! setup_cuda; then
                complain "--program ./train_olmo2 is the same program for the CPU"
                exit 1
            fi
        fi
        run make "${program#./}"
        ;;
    *)
        if [ ! -x "$program" ]; then
            complain "--program $program: no such program; expected ./train_olmo2, ./train_olmo2cu or a copy"
            exit 1
        fi
        ;;
esac
case $program in
    *cu)
        if ! gpu name >/dev/null; then
            complain "nvidia-smi finds no GPU; --program ./train_olmo2 is the same program for the CPU"
            exit 1
        fi
        ;;
esac

# ---------------------------------------------------------------------------------------------
# the run

if [ $resumes = yes ]; then
    step "resume $out"
    # Files that are named again may have moved; train checks that they are the same.
    files=()
    if [ ${#data[@]} -gt 0 ]; then files+=(--data "${data[@]}"); fi
    files+=(${val_data[@]+"${val_data[@]}"} ${tokenizer[@]+"${tokenizer[@]}"})
    stop_at=$(value_of --stop-at "${recipe[@]}")
    run "$program" train --resume "$out" ${stop_at:+--stop-at "$stop_at"} ${files[@]+"${files[@]}"} \
        ${flags[@]+"${flags[@]}"}
    say_where_curves_are
    exit
fi

if [ ${#val_data[@]} -eq 0 ]; then
    say "no --val-data: only the training loss will be reported"
    without --eval-every
fi
flags=("${recipe[@]}" ${tokenizer[@]+"${tokenizer[@]}"} ${val_data[@]+"${val_data[@]}"}
    ${flags[@]+"${flags[@]}"})
if [ -z "$(value_of --micro-batch-size "${flags[@]}")" ]; then
    step "find how many sequences fit into memory"
    if [ -z "$memory" ] && ! memory=$(free_memory "$program"); then
        complain "cannot find out how much memory is free; give it with --memory"
        exit 1
    fi
    if ! largest=$(largest_micro_batch "$program" "$memory" "${flags[@]}"); then
        complain "flags of train that need less memory may be given after --, see --help"
        exit 1
    fi
    # As few micro-batches as possible, all of about the same size.
    batch=$(value_of --batch-size "${flags[@]}")
    rounds=$(((batch + largest - 1) / largest))
    micro=$(((batch + rounds - 1) / rounds))
    say "at most $largest: a step of $batch sequences takes micro-batches of $micro"
    flags+=(--micro-batch-size "$micro")
fi

step "train; Ctrl-C saves and stops, and the same command resumes"
run "$program" train "${flags[@]}" --out "$out" --data "${data[@]}"
say_where_curves_are
