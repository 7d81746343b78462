# shellcheck shell=bash
# setup.sh: functions for the other scripts. Each setup_ function installs what is missing and says what
# and why; if nothing is missing, it does nothing. They are called from the project root.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Waiting threads of GCC's OpenMP spin for microseconds, not milliseconds, before they sleep. On an idle
# machine the speed is the same; on a busy one it is a quarter higher.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"

say() { printf '%s\n' "$*"; }

complain() { printf 'error: %s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

step() { printf '\n== %s\n' "$*"; }

# run COMMAND...: prints the command as one would type it, then runs it
run() {
    local shown
    shown=$(printf ' %q' "$@")
    printf '$%s\n' "$shown"
    "$@"
}

# from_root PATH: a path relative to the current folder, rewritten relative to the project root
from_root() {
    local path=$1
    case $path in /* | *://*) ;; *) path=$PWD/$path ;; esac
    printf '%s' "${path#"$root"/}"
}

# refuse_existing DIR: ends the script rather than overwrite a run
refuse_existing() {
    if [ -e "$1" ]; then
        complain "$1 exists already: choose another folder, or remove this one"
        exit 1
    fi
}

# install_packages WHY PACKAGE...: with apt-get, if the system has it
install_packages() {
    local why=$1
    shift
    if ! have apt-get; then
        complain "$why: install $* (names may differ on this system), then run this again"
        return 1
    fi
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! have sudo; then
            complain "$why: run 'apt-get install $*' as root, then run this again"
            return 1
        fi
        sudo=(sudo)
    fi
    say "installing $* with apt-get: $why"
    # Tries the package index that is there first, and fetches a new one only if that fails.
    "${sudo[@]}" apt-get install -y -qq "$@" >/dev/null 2>&1 ||
        { "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq "$@" >/dev/null; }
}

# Installs a C compiler with OpenMP, and make.
setup_build_tools() {
    if [ "$(uname -s)" = Darwin ]; then
        if ! have cc || ! have make; then
            complain "the C compiler and make are missing: run 'xcode-select --install', then run this again"
            return 1
        fi
        if ! have brew || ! brew --prefix --installed libomp >/dev/null 2>&1; then
            say "OpenMP is missing, so the program will use one thread; for all threads: brew install libomp"
        fi
        return 0
    fi
    local missing=()
    have gcc || have clang || missing+=(gcc libc6-dev)
    have make || missing+=(make)
    [ ${#missing[@]} -eq 0 ] || install_packages "they compile train_olmo2.c" "${missing[@]}"
}

# Installs clang, for the fuzz targets and as a second compiler, and g++, for the headers as C++. The tests
# skip what they do not find, so a failure here is not an error.
setup_test_tools() {
    [ "$(uname -s)" != Darwin ] || return 0
    local missing=()
    have clang || missing+=(clang libomp-dev)
    have g++ || missing+=(g++)
    [ ${#missing[@]} -eq 0 ] || install_packages "some tests need them" "${missing[@]}" ||
        say "continuing without ${missing[*]}"
}

# Finds the CUDA Toolkit. It is too large to install unasked, so without it the CUDA tests are skipped. A
# toolkit without cuBLAS gets cuBLAS from PyPI. The tests need no GPU.
setup_cuda() {
    local home=${CUDA_HOME:-/usr/local/cuda} release package
    if [ ! -d "$home" ] && have nvcc; then home=$(dirname "$(dirname "$(command -v nvcc)")"); fi
    if [ ! -x "$home/bin/nvcc" ]; then
        say "no CUDA Toolkit in $home (CUDA_HOME names another folder): the CUDA program and its tests are"
        say "left out. They need its compiler and headers (developer.nvidia.com/cuda-downloads), but no GPU"
        return 1
    fi
    [ ! -f "$home/include/cublas_v2.h" ] || return 0
    release=$("$home/bin/nvcc" --version | sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p')
    case $release in 12.*) package=nvidia-cublas-cu12 ;; *) package=nvidia-cublas ;; esac
    setup_packages "the toolkit in $home lacks cuBLAS, which train_olmo2.cu uses" "$package==$release.*"
}

# setup_packages WHY PACKAGE...: installs Python packages into .venv, unless they are there
setup_packages() {
    local why=$1 wanted
    shift
    wanted=$(printf '%s\n' "$@")
    if [ -f .venv/installed ] && ! grep -qvxFf .venv/installed <<<"$wanted"; then return 0; fi
    say "installing $* into .venv: $why"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" || return 1
    printf '%s\n' "$wanted" >>.venv/installed
}

# Creates .venv, where all Python packages of this project go.
setup_venv() {
    if ! have python3; then
        if [ "$(uname -s)" = Darwin ]; then
            complain "Python 3 is missing: brew install python3, then run this again"
            return 1
        fi
        install_packages "the data scripts are Python" python3 python3-venv || return 1
    fi
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
        complain "found $(python3 --version 2>&1), but Python 3.9 or newer is needed"
        return 1
    fi
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if [ "$(uname -s)" != Darwin ] && ! python3 -c 'import ensurepip' 2>/dev/null; then
            install_packages "it creates .venv, for NumPy and matplotlib" python3-venv || return 1
        fi
        say "creating .venv for the Python packages of this project"
        python3 -m venv --clear .venv || return 1
    fi
    setup_packages "the data scripts use NumPy, the plots matplotlib" numpy matplotlib
}

# Installs the packages that the comparisons need: PyTorch, transformers, tokenizers and OLMo-core, at the
# versions in dev/reference/requirements.txt. A PyTorch of that version that is already installed, such as a
# CPU-only build, is kept.
setup_reference() {
    local list=dev/reference/requirements.txt
    if cmp -s "$list" .venv/reference; then return 0; fi
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        complain "the comparisons need Python 3.11 or newer, but .venv has $(.venv/bin/python --version 2>&1)"
        return 1
    fi
    say "installing $(tr '\n' ' ' <"$list")into .venv: the tests compare with them"
    say "(PyTorch's default package for Linux takes a few gigabytes, since it includes the CUDA libraries)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$list" || return 1
    cp "$list" .venv/reference
}

# gpu FIELD: what nvidia-smi reports about the GPU that CUDA uses, such as "gpu name". Fails without a GPU.
# CUDA is told to number GPUs as nvidia-smi does.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
gpu() {
    local visible=${CUDA_VISIBLE_DEVICES:-0}
    have nvidia-smi || return 1
    nvidia-smi --id="${visible%%,*}" --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null
}

# free_memory PROGRAM: bytes available to it, on the GPU for train_olmo2cu, else on this machine
free_memory() {
    local amount
    case $1 in
        *cu)
            amount=$(gpu memory.free) || return 1
            echo $(((amount - 1024) << 20)) # CUDA itself takes half a GiB or more
            ;;
        *)
            if [ -r /proc/meminfo ]; then
                amount=$(sed -nE 's/^MemAvailable: *([0-9]+) kB/\1/p' /proc/meminfo)
                echo $((amount * 1024 * 9 / 10))
            else
                sysctl -n hw.memsize
            fi
            ;;
    esac
}

# largest_micro_batch PROGRAM BYTES FLAGS...: the most sequences that `train FLAGS` can process at once in
# BYTES
largest_micro_batch() {
    local program=$1 bytes=$2 plan
    shift 2
    plan=$("$program" train "$@" --dry-run --memory "$bytes") || return 1
    sed -nE 's/^largest +([0-9]+) .*/\1/p' <<<"$plan"
}
