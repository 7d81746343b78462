# shellcheck shell=bash
# setup.sh: what other scripts share. Each setup_ function makes sure that something is there, says what it
# installs and why, and does nothing where nothing is missing; all of them are called from the project root.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Threads of GCC's OpenMP that wait spin for microseconds, not milliseconds, before they sleep: the same speed
# on a machine that is idle, and a quarter more on one that is not.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"

say() { printf '%s\n' "$*"; }

complain() { printf 'error: %s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

step() { printf '\n== %s\n' "$*"; }

# run COMMAND...: shows the command as it could be typed, then runs it
run() {
    local shown
    shown=$(printf ' %q' "$@")
    printf '$%s\n' "$shown"
    "$@"
}

# from_root PATH: a path given where the caller stands, as it is written from the project root
from_root() {
    local path=$1
    case $path in /* | *://*) ;; *) path=$PWD/$path ;; esac
    printf '%s' "${path#"$root"/}"
}

# refuse_existing DIR: nobody's run is overwritten
refuse_existing() {
    if [ -e "$1" ]; then
        complain "$1 exists already: name another folder, or remove this one"
        exit 1
    fi
}

# install_packages WHY PACKAGE...: with apt-get, where there is one
install_packages() {
    local why=$1
    shift
    if ! have apt-get; then
        complain "$why: install $* (or what this system calls them), then run this again"
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
    # The index may be old or absent on a fresh machine, so it is fetched only after a first try without it.
    "${sudo[@]}" apt-get install -y -qq "$@" >/dev/null 2>&1 ||
        { "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq "$@" >/dev/null; }
}

# a C compiler with OpenMP, and make
setup_build_tools() {
    if [ "$(uname -s)" = Darwin ]; then
        if ! have cc || ! have make; then
            complain "the C compiler and make are missing: run 'xcode-select --install', then run this again"
            return 1
        fi
        if ! have brew || ! brew --prefix --installed libomp >/dev/null 2>&1; then
            say "OpenMP is missing, so one thread will be used; for all of them: brew install libomp"
        fi
        return 0
    fi
    local missing=()
    have gcc || have clang || missing+=(gcc libc6-dev)
    have make || missing+=(make)
    [ ${#missing[@]} -eq 0 ] || install_packages "train_olmo2.c is compiled on this machine" "${missing[@]}"
}

# clang for the fuzz targets and a second compiler's opinion, g++ for the headers as C++. The tests skip what
# they do not find, so not getting them is no error.
setup_test_tools() {
    [ "$(uname -s)" != Darwin ] || return 0
    local missing=()
    have clang || missing+=(clang libomp-dev)
    have g++ || missing+=(g++)
    [ ${#missing[@]} -eq 0 ] || install_packages "some tests use them" "${missing[@]}" ||
        say "going on without ${missing[*]}"
}

# The CUDA Toolkit is not something to install in passing, so that the CUDA tests are skipped where it is not.
# Where it is there without cuBLAS, its header comes from PyPI; the tests need no GPU and no more of it.
setup_cuda() {
    local home=${CUDA_HOME:-/usr/local/cuda} release package
    if [ ! -d "$home" ] && have nvcc; then home=$(dirname "$(dirname "$(command -v nvcc)")"); fi
    if [ ! -x "$home/bin/nvcc" ]; then
        say "no CUDA Toolkit in $home (or name its folder in CUDA_HOME): the CUDA program and its tests are left"
        say "out; its compiler and headers, from developer.nvidia.com/cuda-downloads, are enough for them: no GPU"
        return 1
    fi
    [ ! -f "$home/include/cublas_v2.h" ] || return 0
    release=$("$home/bin/nvcc" --version | sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p')
    case $release in 12.*) package=nvidia-cublas-cu12 ;; *) package=nvidia-cublas ;; esac
    setup_packages "the toolkit in $home lacks cuBLAS, which train_olmo2.cu uses" "$package==$release.*"
}

# setup_packages WHY PACKAGE...: into .venv, unless they are there
setup_packages() {
    local why=$1 wanted
    shift
    wanted=$(printf '%s\n' "$@")
    if [ -f .venv/installed ] && ! grep -qvxFf .venv/installed <<<"$wanted"; then return 0; fi
    say "installing $* into .venv: $why"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" || return 1
    printf '%s\n' "$wanted" >>.venv/installed
}

# Python packages of this project live in .venv and nowhere else.
setup_venv() {
    if ! have python3; then
        if [ "$(uname -s)" = Darwin ]; then
            complain "Python 3 is missing: brew install python3, then run this again"
            return 1
        fi
        install_packages "the data scripts are Python" python3 python3-venv || return 1
    fi
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
        complain "python3 is $(python3 --version 2>&1), and 3.9 or newer is needed"
        return 1
    fi
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if [ "$(uname -s)" != Darwin ] && ! python3 -c 'import ensurepip' 2>/dev/null; then
            install_packages "NumPy and matplotlib go into .venv, which needs it" python3-venv || return 1
        fi
        say "creating .venv for the Python packages of this project"
        python3 -m venv --clear .venv || return 1
    fi
    setup_packages "the data scripts use NumPy, the plots matplotlib" numpy matplotlib
}

# What the cross-checks compare with: PyTorch, transformers, tokenizers and OLMo-core, at the versions of
# dev/reference/requirements.txt. A PyTorch of that version that is there already, such as a build for the CPU
# alone, is kept.
setup_reference() {
    local list=dev/reference/requirements.txt
    if cmp -s "$list" .venv/reference; then return 0; fi
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        complain "the cross-checks need Python 3.11 or newer, and .venv has $(.venv/bin/python --version 2>&1)"
        return 1
    fi
    say "installing $(tr '\n' ' ' <"$list")into .venv: the cross-checks compare with them"
    say "(PyTorch's usual package for Linux is some gigabytes, since it holds CUDA's libraries too)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$list" || return 1
    cp "$list" .venv/reference
}

# gpu FIELD: what nvidia-smi says of the GPU that CUDA takes, such as "gpu name"; it fails where there is none.
# CUDA is told to number GPUs as nvidia-smi does.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
gpu() {
    local visible=${CUDA_VISIBLE_DEVICES:-0}
    have nvidia-smi || return 1
    nvidia-smi --id="${visible%%,*}" --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null
}

# free_memory PROGRAM: bytes that it can have: of the GPU for train_olmo2cu, of this machine for any other
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

# largest_micro_batch PROGRAM BYTES FLAGS...: how many sequences `train FLAGS` takes at once in so many bytes
largest_micro_batch() {
    local program=$1 bytes=$2 plan
    shift 2
    plan=$("$program" train "$@" --dry-run --memory "$bytes") || return 1
    sed -nE 's/^largest +([0-9]+) .*/\1/p' <<<"$plan"
}
