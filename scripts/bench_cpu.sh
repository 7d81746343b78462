#!/usr/bin/env bash
# scripts/bench_cpu.sh [options]: measures the CPU program and PyTorch and its ecosystem on this machine, and
# writes dev/bench/RESULTS.md and the table in README.md.
#   --rounds N           rounds in which the programs take turns (5)
#   --only SECTION,...   only these of gemm, step, prefill, decode, batch, eval, tokenizer, loader;
#                        prints the results
#   --quick              one round with tiny sizes, to see that everything works; prints the results
#   --out FILE           writes the results there and leaves README.md as it is
# All programs use OMP_NUM_THREADS threads, by default one per core. The machine should be idle.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            sed -n 's/^# \{0,1\}//; 2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d'
            exit 0
            ;;
        --quick) arguments+=("$1") ;;
        --rounds | --only | --out)
            if [ $# -lt 2 ]; then
                complain "$1 needs a value"
                exit 2
            fi
            if [ "$1" = --out ]; then arguments+=("$1" "$(from_root "$2")"); else arguments+=("$1" "$2"); fi
            shift
            ;;
        *)
            complain "unknown argument '$1'; see --help"
            exit 2
            ;;
    esac
    shift
done
cd "$root"
unset GOMP_SPINCOUNT # every program waits as its libraries do by default
setup_build_tools
have g++ || install_packages "torch.compile needs a C++ compiler" g++
setup_venv
setup_reference
setup_packages "the tokenizer is also compared with it" tiktoken==0.14.0

step "build the benchmarks"
run make build/bench_{gemm,step,step_loops,decode,read,eval,tokenizer,loader}

step "measure"
.venv/bin/python dev/bench/bench_cpu.py ${arguments[@]+"${arguments[@]}"}
