# cli.sh: what every command-line test begins with. Source it: . "$(dirname "$0")/cli.sh"
#
# It moves to an empty temporary directory that holds a tiny model's config.json, a tokenizer of single bytes
# and two small texts, and defines check, run, says, refuse, equal, python and shows_progress. $program is the
# program under test (the script's first argument, or ./train_olmo2), $project the repository. End a test with
# `finish`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
project=$PWD
program=${1:-./train_olmo2}
program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here" || exit 1
export OMP_NUM_THREADS=1
passed=0 failed=0

pass() { passed=$((passed + 1)); }
fail() {  # WHAT [DETAILS]
    failed=$((failed + 1))
    echo "FAILED $1"
    [ -z "${2:-}" ] || sed 's/^/       /' <<<"$2" | tail -n 20
}

# check WHAT COMMAND...: the command must succeed. What it prints is shown: a figure that was reached, say.
check() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        pass
        [ -z "$output" ] || echo "$what: $output"
    else
        fail "$what: exit code $? of: $*" "$output"
    fi
}

# The command that run and refuse call with their arguments. A test of several programs defines its own.
start_program() { "$program" "$@"; }

# run ARGUMENTS...: the program must succeed; its output is in the file `output`.
run() { start_program "$@" >output 2>errors </dev/null && pass || fail "$*: exit code $?" "$(cat output errors)"; }

# says WORDS: the last run's output has them.
says() {
    if grep -qF -- "$1" output; then pass; else fail "expected the output to say: $1" "$(cat output)"; fi
}

files() {
    find . -type d -print -o -type f ! -name output ! -name errors ! -name before ! -name after \
        -exec cksum {} + | sort
}

# refuse WORDS ARGUMENTS...: exit code 1, "error: " and the words on stderr, nothing made, changed or removed.
refuse() {
    local words=$1 code
    shift
    files >before
    start_program "$@" >output 2>errors </dev/null
    code=$?
    files >after
    if [ $code -eq 1 ] && grep -q '^error: ' errors && grep -qF -- "$words" errors &&
        cmp -s before after; then
        pass
    else
        fail "$*: exit code $code, expected 1 and \"$words\"" "$(cat errors; diff before after)"
    fi
}

equal() { if [ "$2" = "$3" ]; then pass; else fail "$1: found $2, expected $3"; fi; }

python() { python3 -c "$@"; }

# shows_progress REGEX ARGUMENTS...: on a terminal the program shows such a line of progress, and when it is
# then asked to stop, an error in its place.
shows_progress() {
    check "progress of ${*:2}" python 'import os, pty, re, signal, sys
process, terminal = pty.fork()
if process == 0: os.execv(sys.argv[2], sys.argv[2:])
shown, line = b"", re.compile(rb"\r" + sys.argv[1].encode() + rb"\x1b\[K")
while line.search(shown) is None: shown += os.read(terminal, 65536)  # an error if the program ends first
os.kill(process, signal.SIGTERM)
try:
    while piece := os.read(terminal, 65536): shown += piece
except OSError: pass  # the end
os.waitpid(process, 0)
assert b"\r\x1b[Kerror: " in shown, shown[-200:]' "$1" "$program" "${@:2}"
}

# ---------------------------------------------------------------------------------------------
# a tiny model, a tokenizer of single bytes, two small texts

python3 - <<'END'
import json, random, re, struct

def tokenizer(extra):
    """Bytes and nothing else: the alphabet of byte-level BPE, then the added tokens."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = iter(range(256, 512))
    letters = [chr(b) if b in plain else chr(next(rest)) for b in range(256)]
    added = ["<|endoftext|>", "<|pad|>"] + [f"<|extra{i}|>" for i in range(extra)]
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
               r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": 256 + i, "content": text, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}
                         for i, text in enumerate(added)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}}

def write(name, value):
    with open(name, "w") as file:
        json.dump(value, file) if not isinstance(value, str) else file.write(value)

write("tokenizer.json", tokenizer(0))
write("larger.json", tokenizer(100))
write("wordpiece.json", {**tokenizer(0), "model": {"type": "WordPiece", "vocab": {"a": 0}}})
write("broken.json", json.dumps(tokenizer(0))[:500])

config = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_size": 8,
          "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,
          "vocab_size": 260, "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "rope_theta": 500000,
          "eos_token_id": 256, "pad_token_id": 257}
write("config.json", config)
write("llama.json", {**config, "model_type": "llama"})
write("olmo1.json", {**config, "model_type": "olmo"})
write("odd.json", {**config, "num_key_value_heads": 3})
write("half.json", json.dumps(config)[:100])
write("huge.json", {**config, "hidden_size": 2**20, "intermediate_size": 2**20, "num_hidden_layers": 4096})
write("long.json", {**config, "max_position_embeddings": 2**24, "num_hidden_layers": 4096,
                    "intermediate_size": 2**20})

template = ("{% for message in messages %}{% if message['role'] == 'system' %}"
            "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
            "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
            "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
            "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
            "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}")
write("instruct.json", {"chat_template": "{{ bos_token }}" + template})  # a tokenizer_config.json
write("no_begin.json", {"chat_template": template})

random.seed(1)
words = "the cat sat on a mat and ran to see who saw it".split()
stories = [" ".join(random.choices(words, k=20)) + ".\n" for _ in range(120)]
write("train.jsonl", "".join(json.dumps({"text": story}) + "\n" for story in stories[:100]))
write("val.jsonl", "".join(json.dumps({"text": story, "id": 1}) + "\n" for story in stories[100:]))
write("bad.jsonl", '{"text": "good"}\n{"txt": "bad"}\n')
write("broken.jsonl", '{"text": "good"}\n{"text": "bad\n')
write("a.txt", "The end. \u00e9\n")
write("empty.txt", "")
write("empty.npy", "")
write("truncated.npy", "12345")
write("text.npy", "text, not tokens")
with open("masked.npy", "wb") as file:
    file.write(struct.pack("<200I", *[i % 250 for i in range(200)]))
with open("masked.npy.mask", "wb") as file:
    file.write(bytes(199))
with open("unlabelled.npy", "wb") as file:
    file.write(struct.pack("<64I", *range(64)))
with open("unlabelled.npy.mask", "wb") as file:
    file.write(bytes(64))
with open("repeats.npy", "wb") as file:
    file.write(struct.pack("<640I", *([1, 2] * 320)))
header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (10,), }".ljust(117) + b"\n"
with open("int64.npy", "wb") as file:
    file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(80))
END

new=(train --config config.json --tokenizer tokenizer.json --data train.npy --batch-size 8)

# Two token files: train.npy of 100 documents, val.npy of 20.
make_tokens() {
    run tokenize --tokenizer tokenizer.json --out train.npy train.jsonl
    run tokenize --tokenizer tokenizer.json --out val.npy val.jsonl
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
