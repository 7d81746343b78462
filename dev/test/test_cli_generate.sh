#!/usr/bin/env bash
# test_cli_generate.sh [PROGRAM]: many prompts to a file, the same whatever is beside them; stop texts; what
# generate refuses; what an interrupted run keeps.
. "$(dirname "$0")/cli.sh"

make_tokens
python 'import json
config = json.load(open("config.json"))
config["max_position_embeddings"] = 100
json.dump(config, open("long_config.json", "w"))'
run train --config long_config.json --tokenizer tokenizer.json --data train.npy --seq-len 64 --batch-size 4 \
    --steps 200 --lr 1e-2 --out model
cat >prompts.jsonl <<'END'
{"prompt": "the cat sat", "id": "a field of others"}

{"ids": [116, 104, 101, 32], "score": 1.5}
{"prompt": ""}
{"prompt": "the cat sat on a mat and ran to see who saw it. the cat sat on a mat and ran"}
{"other": {"prompt": 3}, "prompt": "caf\u00e9 \ud83d\ude00"}
{"prompt": "the cat sat"}
END

# fields NAME EXPRESSION: of every line r of the file
fields() { python "import json, sys
print(*[$2 for r in map(json.loads, open(sys.argv[1]))], sep='|')" "$1"; }

# ---------------------------------------------------------------------------------------------
# many prompts

many=(generate --load model --prompts prompts.jsonl --max-tokens 12 --seed 3)
run "${many[@]}" --samples 3 --logprobs --out texts.jsonl
says "texts.jsonl: 18 texts"
check "the numbers that were chosen" grep -q '^6 prompts, 18 texts, 16 side by side, up to 88 tokens each with the prompt$' errors
equal "the order" "$(fields texts.jsonl 'str(r["prompt"]) + "." + str(r["sample"])')" \
    "0.0|0.1|0.2|1.0|1.1|1.2|2.0|2.1|2.2|3.0|3.1|3.2|4.0|4.1|4.2|5.0|5.1|5.2"
check "ids are the text, and end as they say" python 'import json, re
lines = [json.loads(line) for line in open("texts.jsonl")]
for r in lines:
    ids = r["ids"][:-1] if r["end"] == "end_token" else r["ids"]
    text = b"".join(bytes([i]) if i < 256 else b"<|pad|>" for i in ids).decode(errors="surrogateescape")
    assert re.sub("[\udc80-\udcff]", "\ufffd", text) == r["text"], r
    assert len(r["logprobs"]) == len(r["ids"]) and all(x < 0 for x in r["logprobs"]), r
    assert r["end"] == "end_token" and r["ids"][-1] == 256 or r["end"] == "max_tokens" and len(ids) == 12, r
assert len({tuple(r["ids"]) for r in lines}) == 18'
for slots in 1 2 3 4 5 18; do
    for threads in 1 2; do
        run "${many[@]}" --samples 3 --logprobs --slots $slots --threads $threads --out s$slots.$threads.jsonl
        check "$slots slots, $threads threads: the same bytes" cmp s$slots.$threads.jsonl texts.jsonl
    done
done
gzip -c prompts.jsonl >prompts.jsonl.gz
run generate --load model --prompts prompts.jsonl.gz --max-tokens 12 --seed 3 --out gz.jsonl
equal "one sample each, packed" "$(fields gz.jsonl 'r["ids"]')" "$(fields texts.jsonl 'r["ids"]' |
    tr '|' '\n' | sed -n '1~3p' | paste -sd'|')"
"$program" generate --load model --prompts - --max-tokens 12 --seed 3 --out in.jsonl <prompts.jsonl >output 2>errors
check "from standard input" cmp in.jsonl gz.jsonl

# ---------------------------------------------------------------------------------------------
# one prompt

run generate --load model --prompt "the cat sat" --max-tokens 12 --seed 3
cp output one
check "the text of the first prompt" python 'import json
ids = json.loads(open("gz.jsonl").readline())["ids"]
assert open("one", "rb").read() == b"the cat sat" + bytes(i for i in ids if i < 256) + b"\n"'
printf 'the cat sat' >prompt.txt
run generate --load model --prompt-file prompt.txt --max-tokens 12 --seed 3
check "from a file" cmp output one
"$program" generate --load model --prompt-file - --max-tokens 12 --seed 3 <prompt.txt >output 2>errors
check "from standard input" cmp output one
printf '{"text": "a prompt that is JSON"}\n' >prompt.json.txt
run generate --load model --prompt-file prompt.json.txt --max-tokens 1
check "the file's bytes are the prompt" grep -q '^{"text": "a prompt that is JSON"}$' output
run generate --load model --prompt "the cat sat" --samples 2 --max-tokens 12 --seed 3
equal "samples" "$(grep -c '^--- sample [12] of 2$' output)" 2
check "the first sample is the text" python 'text = open("output", "rb").read()
assert text.startswith(b"--- sample 1 of 2\n" + open("one", "rb").read() + b"--- sample 2 of 2\nthe cat sat"), text'
run generate --load model --prompt "the cat" --max-tokens 12 --temperature 0
cp output greedy
run generate --load model --prompt "the cat" --max-tokens 12 --min-p 1
check "min-p 1 is greedy" cmp output greedy
run generate --load model --prompt "the cat" --max-tokens 1000 --temperature 0
check "no further than the model has positions" [ "$(wc -c <output)" -le 101 ]

# ---------------------------------------------------------------------------------------------
# stop texts: a model of bytes, so every stop text is across tokens

whole=$(tail -c +8 greedy)
stop=${whole:3:2}
run generate --load model --prompt "the cat" --max-tokens 12 --temperature 0 --stop "never" "$stop"
equal "before the stop text" "$(cat output)" "the cat${whole%%"$stop"*}"
run generate --load model --prompt "the cat" --max-tokens 12 --temperature 0 --stop "$stop" --out stop.jsonl
equal "why it ended" "$(fields stop.jsonl '(r["end"], r["text"])')" "('stop', '${whole%%"$stop"*}')"
run generate --load model --prompt "the cat" --max-tokens 12 --temperature 0 --stop "${whole:0:4}never" --stop "$whole!"
check "what only begins like a stop text is shown" cmp output greedy

# ---------------------------------------------------------------------------------------------
# a long run

long=(generate --load model --max-tokens 80 --prompt "the" --temperature 2)
shows_progress 'texts: [1-9]\d* of 1000000, \S+ left, [\d.]+ tokens/s' \
    "${long[@]}" --samples 1000000 --out progress.jsonl
"$program" "${long[@]}" --samples 1000000 --out cut.jsonl >output 2>errors </dev/null &
job=$!
sleep 1
kill -TERM $job  # bash starts background jobs with SIGINT ignored
wait $job
equal "interrupted: exit code" $? 1
check "interrupted: what is kept" python 'import json, re
words = open("errors").read()
count, total, name = re.search(r"error: interrupted\n +(\d+) of (\d+) texts are complete, in (\S+)", words).groups()
assert name == "cut.jsonl.partial" and total == "1000000", words
lines = [json.loads(line) for line in open(name)]
assert len(lines) == int(count) > 0 and {r["end"] for r in lines} <= {"end_token", "max_tokens"}, words'
check "nothing with the final name, nothing aside" python 'import os
assert not [name for name in os.listdir() if name.startswith(".writing") or name == "cut.jsonl"]'
if [ "$(uname -s)" = Linux ]; then
    (ulimit -f 8 && exec "$program" "${long[@]}" --samples 300 --out large.jsonl) >output 2>errors </dev/null
    equal "a full disk: exit code" $? 1
    check "a full disk: the message" grep -q "^error: large.jsonl: cannot be written: File too large" errors
    equal "a full disk: nothing is left" "$(find . -name '*large.jsonl*')" ""
fi

# ---------------------------------------------------------------------------------------------
# bad input

line() { printf '{"prompt": "good"}\n%s\n' "$1" >bad.jsonl; }
bad=(generate --load model --prompts bad.jsonl --out new.jsonl)
line '{"text": "a"}'
refuse 'bad.jsonl:2: found neither "prompt" nor "ids"' "${bad[@]}"
line '{"prompt": "a", "ids": [1]}'
refuse 'bad.jsonl:2: found both "prompt" and "ids"' "${bad[@]}"
line '["a"]'
refuse 'bad.jsonl' "${bad[@]}"
line '{"prompt": ["a"]}'
refuse 'bad.jsonl:2: "prompt" is an array, expected a string' "${bad[@]}"
line '{"prompt": "a"'
refuse 'bad.jsonl:2' "${bad[@]}"
line '{"ids": []}'
refuse 'bad.jsonl:2: "ids" is empty' "${bad[@]}"
line '{"ids": [1, 260]}'
refuse 'bad.jsonl:2: "ids" holds 260, expected ids from 0 to 259' "${bad[@]}"
line '{"ids": [1, -1]}'
refuse 'bad.jsonl:2: "ids" holds -1' "${bad[@]}"
line '{"ids": [1, 2.5]}'
refuse 'bad.jsonl:2: "ids" holds 2.5' "${bad[@]}"
line "{\"prompt\": \"$(printf '%0100d' 0)\"}"
refuse 'bad.jsonl:2: has 100 tokens, expected fewer than the model'\''s 100 positions' "${bad[@]}"
printf '{"prompt": "\xc3"}\n' >bad.jsonl
refuse 'bad.jsonl:1' "${bad[@]}"
printf '\n \n' >bad.jsonl
refuse 'bad.jsonl: has only blank lines' "${bad[@]}"
: >bad.jsonl
refuse 'bad.jsonl: is empty' "${bad[@]}"
printf 'the cat' >bad.txt
refuse 'bad.txt: expected JSON Lines' generate --load model --prompts bad.txt --out new.jsonl
refuse 'nothing.jsonl: cannot be opened' generate --load model --prompts nothing.jsonl --out new.jsonl
refuse 'empty.txt: is empty' generate --load model --prompt-file empty.txt
printf 'caf\xe9' >latin.txt
refuse 'latin.txt:1:4: found the byte 0xE9, expected UTF-8 text' generate --load model --prompt-file latin.txt
refuse '--prompt: found the byte 0xE9 after 3 bytes' generate --load model --prompt "$(cat latin.txt)"
refuse "at most one of them" generate --load model --prompt a --prompts prompts.jsonl --out new.jsonl
refuse "at most one of them" generate --load model --prompt a --prompt-file prompt.txt
refuse "--prompts: needs --out" generate --load model --prompts prompts.jsonl
refuse "--logprobs: needs --out" generate --load model --logprobs
refuse "--stop: is empty" generate --load model --stop ""
refuse "--samples 0" generate --load model --samples 0
refuse "--min-p 1.5" generate --load model --min-p 1.5
refuse "--slots 0" generate --load model --slots 0

# What can be refused at once is refused before the model is loaded: this one cannot be.
cp -r model/step-00000200 damaged
printf 'x' >damaged/model.safetensors
refuse "texts.jsonl: exists" generate --load damaged --prompts prompts.jsonl --out texts.jsonl
refuse "--out nowhere/new.jsonl" generate --load damaged --prompts prompts.jsonl --out nowhere/new.jsonl
printf '{"ids": [1, 260]}' >bad.jsonl
refuse 'bad.jsonl:1: "ids" holds 260' generate --load damaged --prompts bad.jsonl --out new.jsonl
cp -r model/step-00000200 nan
python 'import json, struct
data = bytearray(open("nan/model.safetensors", "rb").read())
size = struct.unpack("<Q", data[:8])[0]
at = 8 + size + json.loads(data[8:8 + size])["model.norm.weight"]["data_offsets"][0]
data[at:at + 4] = b"\x00\x00\xc0\x7f"
open("nan/model.safetensors", "wb").write(data)'
refuse "prompts.jsonl:" generate --load nan --prompts prompts.jsonl --out new.jsonl
check "logits that are not finite" grep -q "is nan: its weights are damaged" errors

# A model in which one token alone is damaged: the texts before it stay.
cp -r model/step-00000200 hole
python 'import json, struct
data = bytearray(open("hole/model.safetensors", "rb").read())
size = struct.unpack("<Q", data[:8])[0]
table = json.loads(data[8:8 + size])["model.embed_tokens.weight"]
at = 8 + size + table["data_offsets"][0] + 4 * table["shape"][1] * 1  # the row of token 1
data[at:at + 4] = b"\x00\x00\xc0\x7f"
open("hole/model.safetensors", "wb").write(data)'
printf '{"prompt": "the cat"}\n{"ids": [2]}\n{"ids": [1]}\n{"ids": [2]}\n' >some.jsonl
"$program" generate --load hole --prompts some.jsonl --temperature 0 --max-tokens 5 --slots 1 --out some_texts.jsonl \
    >output 2>errors
equal "damaged in the middle: exit code" $? 1
check "damaged in the middle: the prompt" grep -q "^error: some.jsonl:3: the model's logit" errors
check "what is kept" grep -q "2 of 4 texts are complete, in some_texts.jsonl.partial$" errors
equal "the texts before" "$(fields some_texts.jsonl.partial 'r["prompt"]')" "0|1"
finish
