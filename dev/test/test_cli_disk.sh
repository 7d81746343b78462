#!/usr/bin/env bash
# test_cli_disk.sh [PROGRAM]: the program among other people's files: models whose configuration and tokenizer
# disagree, directories of links, full and read-only disks, names that nobody wants to type, other processes.
. "$(dirname "$0")/cli.sh"
make_tokens

# warns WORDS: the last run's warnings have them. no_warning: there were none.
warns() {
    if grep -q '^warning: ' errors && grep -qF -- "$1" errors; then pass; else
        fail "expected the warning: $1" "$(cat errors)"; fi
}
no_warning() { equal "warnings" "$(grep -c '^warning: ' errors)" 0; }

# member FILE KEY: the member of a JSON object, as JSON.
member() { python 'import json, sys; print(json.dumps(json.load(open(sys.argv[1])).get(sys.argv[2])))' "$1" "$2"; }

# edit FILE KEY=JSON...: a JSON object with these members set; without "=", removed.
edit() {
    python 'import json, os, sys
path = sys.argv[1]
value = json.load(open(path)) if os.path.exists(path) else {}
for change in sys.argv[2:]:
    key, equals, new = change.partition("=")
    value.pop(key, None)
    if equals:
        value[key] = json.loads(new)
json.dump(value, open(path, "w"))' "$@"
}

last=step-00000002
short=(--steps 2 --data train.npy --batch-size 4 --instance-filter off)

# ---------------------------------------------------------------------------------------------
# special tokens: the tokenizer's <|endoftext|>, 256, wins

cp config.json other_tokens.json
edit other_tokens.json vocab_size=100352 eos_token_id=100257 pad_token_id=100277
run train --config other_tokens.json --tokenizer tokenizer.json "${short[@]}" --out large
warns 'other_tokens.json: "eos_token_id" is 100257, but <|endoftext|> of '
warns 'tokenizer.json is 256: documents end with 256'
equal "the end of documents" "$(member large/$last/config.json eos_token_id)" 256
equal "the padding" "$(member large/$last/config.json pad_token_id)" 257
rm -r large
run train --config other_tokens.json --vocab-size 300 --tokenizer tokenizer.json "${short[@]}" --out small
warns '"pad_token_id" is 100277, the vocabulary has 300 rows: ignored'
equal "the end of documents" "$(member small/$last/config.json eos_token_id)" 256
run train --config other_tokens.json --vocab-size 300 "${short[@]}" --out bare
equal "no end of documents" "$(member bare/$last/config.json eos_token_id)" null

run train --config config.json --tokenizer tokenizer.json "${short[@]}" --out model
no_warning
dir=model/$last
cp -r $dir defaults
edit defaults/config.json eos_token_id=50279 pad_token_id=1
edit defaults/generation_config.json eos_token_id=50279 pad_token_id=1
run eval --load defaults --data val.npy
warns 'defaults/config.json: "eos_token_id" is 50279, the vocabulary has 260 rows: ignored'
cp output with_defaults
run eval --load $dir --data val.npy
no_warning
check "eval with ids that do not exist" diff <(grep -v ^model with_defaults) <(grep -v ^model output)
run generate --load defaults --prompt "The" --max-tokens 5

# ---------------------------------------------------------------------------------------------
# several ends, and what a directory says besides

cp -r $dir said
greedy=(--prompt "The" --max-tokens 12 --temperature 0)
run generate --load $dir "${greedy[@]}"
cp output whole_text
third=$(python 'import json, sys
text = open("whole_text", "rb").read()[3:]
plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
rest = iter(range(256, 512))
letters = [chr(b) if b in plain else chr(next(rest)) for b in range(256)]
vocabulary = json.load(open("tokenizer.json"))["model"]["vocab"]
print(vocabulary[letters[text[2]]])')
edit said/config.json "eos_token_id=[256, $third]" 'note={"a": [1, 2.50]}' use_cache=false
python 'import sys
text = open("said/generation_config.json").read()
open("said/generation_config.json", "w").write("""{"eos_token_id": [256, %s],
 "temperature": 0.60, "top_p": 9.5e-1, "stop_strings": ["a", {"b":  "}"}]}""" % sys.argv[1])' "$third"
printf '{"chat_template": "x", "eos_token": "<|endoftext|>"}' >said/tokenizer_config.json
printf 'template' >said/chat_template.jinja
printf '{}' >said/special_tokens_map.json
run generate --load said "${greedy[@]}"
no_warning
check "generation stops at the second end" python 'import sys
whole, text = open("whole_text", "rb").read()[3:], open("output", "rb").read()[3:]
sys.exit(not (whole.startswith(text[:-1]) and len(text) - 1 == whole.index(whole[2])))'

keeps() {  # DIRECTORY: it says what `said` says
    local file
    for words in '"temperature": 0.60' '"top_p": 9.5e-1' '"stop_strings": ["a", {"b":  "}"}]' \
        "\"eos_token_id\": [256, $third]"; do
        check "$1 keeps $words" grep -qF -- "$words" "$1/generation_config.json"
    done
    equal "$1: note" "$(member "$1/config.json" note)" '{"a": [1, 2.5]}'
    equal "$1: use_cache" "$(member "$1/config.json" use_cache)" false
    equal "$1: eos_token_id" "$(member "$1/config.json" eos_token_id)" "[256, $third]"
    for file in tokenizer_config.json chat_template.jinja special_tokens_map.json; do
        check "$1 keeps $file" cmp "said/$file" "$1/$file"
    done
}
run train --load said "${short[@]}" --stop-at 1 --out further
keeps further/step-00000001
mv said moved
run train --resume further
mv moved said
keeps further/$last
run generate --load further/$last --prompt "The" --max-tokens 5
run soup --out mean further/step-00000001 further/$last
keeps mean
run soup --out plain_first $dir said
equal "a soup keeps its first model's files" "$(member plain_first/config.json note)" null

# ---------------------------------------------------------------------------------------------
# directories of links, as in Hugging Face's cache

mkdir -p hub/blobs hub/snapshots/main
for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json; do
    cp $dir/$file "hub/blobs/$(cksum <$dir/$file | tr ' ' -)"
    ln -s "../../blobs/$(cksum <$dir/$file | tr ' ' -)" hub/snapshots/main/$file
done
run eval --load $dir --data val.npy
cp output expected
run eval --load hub/snapshots/main --data val.npy
check "eval through links" diff <(grep -v ^model expected) <(grep -v ^model output)
run train --load hub/snapshots/main "${short[@]}" --out from_links
check "a checkpoint has no links" test -z "$(find from_links -type l)"
mkdir elsewhere
ln -s elsewhere linked
run train --config config.json --tokenizer tokenizer.json "${short[@]}" --stop-at 1 --out linked
run train --resume linked
check "a run in a linked directory" cmp elsewhere/$last/model.safetensors $dir/model.safetensors

# ---------------------------------------------------------------------------------------------
# other people's work in the directory of a run

mkdir -p shared_run/.writing-soup shared_run/.writing-step-00000009/trainer shared_run/.deleting-step-00000001
echo half >shared_run/.writing-soup/config.json
run train --config config.json --tokenizer tokenizer.json "${short[@]}" --out shared_run
check "a soup that is being written is left alone" test -e shared_run/.writing-soup/config.json
equal "what a crashed run left is removed" "$(ls -A shared_run | grep -c -e step-00000009 -e deleting)" 0
run soup --out shared_run/soup $dir $dir
check "what a crashed soup left is removed" test ! -e shared_run/.writing-soup

# parallel starts create the same parents
for i in 1 2 3 4; do
    "$program" train --config config.json "${short[@]}" --out "a/b/c/run$i" >/dev/null 2>"errors$i" &
    pids[i]=$!
done
for i in 1 2 3 4; do
    if wait "${pids[i]}"; then pass; else fail "a parallel start" "$(cat "errors$i")"; fi
done

# ---------------------------------------------------------------------------------------------
# disks

deep=$(python 'print("deep" + "/a" * 1500)')
run train --config config.json "${short[@]}" --out "$deep"
rm -r deep
refuse "expected fewer than 4096" train --config config.json "${short[@]}" --out "$(python 'print("deep" + "/a" * 3000)')"
refuse "File name too long" train --config config.json "${short[@]}" --out "$(python 'print("n" * 300)')"
refuse "a.txt: cannot be created: something that is not a directory" train --config config.json "${short[@]}" --out a.txt/run
truncate -s 1G giant.json
refuse "giant.json: has 1.07 GB" train --config giant.json "${short[@]}" --out new
refuse "giant.json: has 1.07 GB" inspect giant.json
rm giant.json
mkfifo pipe.json
refuse "pipe.json: is not a regular file" train --config pipe.json "${short[@]}" --out new
rm pipe.json

# A limit on the size of files is a disk that fills up. It is met at every size on the way.
for blocks in 1 2 3 5 9; do
    (ulimit -f $blocks; exec "$program" train --config config.json --tokenizer tokenizer.json "${short[@]}" --out "full$blocks") \
        >output 2>errors
    code=$?
    equal "with files of at most $blocks blocks: exit code" $code 1
    check "the error names the file" grep -q "^error: .*full$blocks.*File too large" errors
    equal "no half checkpoint" "$(find "full$blocks" -name 'step-*' -o -name '.writing-*' 2>/dev/null | wc -l)" 0
done
(ulimit -f 1; exec "$program" soup --out new $dir $dir) >output 2>errors
equal "a soup on a full disk" "$? $(ls -A | grep -c -e '^new$' -e '^.writing')" "1 0"
for i in $(seq 50); do cat train.jsonl; done >many.jsonl
(ulimit -f 1; exec "$program" tokenize --tokenizer tokenizer.json --out new.npy many.jsonl) >output 2>errors
equal "tokens on a full disk" "$? $(ls -A | grep -c -e '^new.npy$' -e '^.writing')" "1 0"

# A limit on memory, with a model that is larger.
cp config.json wide.json
edit wide.json hidden_size=1024 intermediate_size=8192 num_hidden_layers=16
if (ulimit -v 900000) 2>/dev/null; then
    (ulimit -v 900000; exec "$program" train --config wide.json "${short[@]}" --out new) >output 2>errors
    equal "a limit on memory: exit code" $? 1
    check "the error names the limit" grep -q "the limit of the address space (ulimit -v) allows 921.60 MB" errors
else
    echo "skipped: a limit on memory (this system has none)"
fi

# Not root: a directory that may not be written to, a checkpoint that may not be removed, a file that may not
# be read.
nobody() {
    if [ "$(id -u)" -ne 0 ]; then "$@"; else
        python 'import os, sys; os.setgid(65534); os.setuid(65534); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
    fi
}
chmod 755 "$here"
cp "$program" program
mkdir -m 555 sealed
mkdir -m 777 open
nobody ./program train --config config.json "${short[@]}" --out sealed/run >output 2>errors
equal "a sealed directory" "$? $(grep -c '^error: sealed/run: cannot be created: Permission denied' errors)" "1 1"
nobody ./program train --config config.json "${short[@]}" --out sealed >output 2>errors
equal "a sealed run" "$? $(grep -c '^error: sealed.*: Permission denied' errors)" "1 1"
nobody ./program train --config config.json --data train.npy --batch-size 4 --steps 4 --save-every 1 --keep 1 \
    --stop-at 1 --out open/run >output 2>errors
equal "a run in an open directory" $? 0
chmod 555 open/run/step-00000001
nobody ./program train --resume open/run >output 2>errors
equal "a checkpoint that stays" "$? $(grep -q 'warning: .*open/run/.deleting-step-00000001: cannot be removed' errors && echo warned)" \
    "0 warned"
chmod 755 open/run/.deleting-step-00000001
cp config.json secret.json
chmod 0 secret.json
nobody ./program inspect secret.json >output 2>errors
equal "a secret file" "$? $(grep -c '^error: secret.json: cannot be opened: Permission denied' errors)" "1 1"

# A file in the place of a checkpoint.
run train --config config.json "${short[@]}" --stop-at 1 --out blocked
touch blocked/$last
"$program" train --resume blocked >output 2>errors
equal "a file in the way: exit code" $? 1
check "the error says so" grep -qF "error: blocked/$last: is in the way, and is not a directory: move it elsewhere" errors
rm blocked/$last
run train --resume blocked

# ---------------------------------------------------------------------------------------------
# names

odd=$'a b\n"c" \'d\' $(touch made) *.txt %s'
run train --config config.json --tokenizer tokenizer.json "${short[@]}" --stop-at 1 --out "$odd"
resume=$(sed -n '/to resume:$/,$p' output | tail -n +2)
check "the command that resumes can be pasted" bash -c "cd '$here' && $resume >/dev/null"
check "and it resumes the run" test -e "$odd/$last"
check "nothing in the name is run" test ! -e made
run eval --load "$odd/$last" --data val.npy
run soup --out "$odd soup" "$odd" "$odd"

finish
