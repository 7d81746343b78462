#!/usr/bin/env bash
# test_cli_text.sh [PROGRAM]: texts in and out: what tokenize reads and refuses, added tokens, what detokenize
# writes. Needs bash and Python 3; zstd where it is present.
. "$(dirname "$0")/cli.sh"

tokenize=(tokenize --tokenizer tokenizer.json)

# document_ids FILE: its token ids, with commas.
document_ids() {
    python 'import struct, sys
data = open(sys.argv[1], "rb").read()
print(*struct.unpack(f"<{len(data) // 4}I", data), sep=",")' "$1"
}

# ---------------------------------------------------------------------------------------------
# documents.h and data/documents.py read alike

if cases=$(python3 "$project/dev/test/documents_cases.py" "$program" 2>&1); then
    count=$(tail -n 1 <<<"$cases")
    passed=$((passed + ${count%% *}))
    grep '^skipped' <<<"$cases"
else
    fail "documents_cases.py" "$cases"
fi

# ---------------------------------------------------------------------------------------------
# what tokenize writes and says

printf 'ab<|endoftext|>' >ends.txt
printf 'ab' >plain.txt
printf '<|endoftext|>' >only.txt
printf 'a<|endoftext|>b' >inside.txt
printf '{"text": "ab<|endoftext|>"}\n{"text": ""}\n{"text": "b"}\n' >ends.jsonl
for name in ends plain only inside; do run "${tokenize[@]}" --out $name.npy $name.txt; done
equal "a text that ends in <|endoftext|> gets no second one" "$(document_ids ends.npy)" "97,98,256"
check "and is like the one without" cmp ends.npy plain.npy
equal "nothing but <|endoftext|>" "$(document_ids only.npy)" "256"
equal "<|endoftext|> inside a text" "$(document_ids inside.npy)" "97,256,98,256"
says "inside.npy: 2 documents, 15 bytes of text, 4 tokens"
run "${tokenize[@]}" --out lines.npy ends.jsonl
equal "lines" "$(document_ids lines.npy)" "97,98,256,256,98,256"
says "lines.npy: 3 documents, 16 bytes of text, 6 tokens"
run "${tokenize[@]}" --out one.npy plain.txt
says "one.npy: 1 document, 2 bytes of text, 3 tokens"
run "${tokenize[@]}" --out two.npy plain.txt plain.txt
says "two.npy: 2 documents, 4 bytes"

# standard input beside files
printf '{"text": "b"}\n' | "$program" "${tokenize[@]}" --out piped.npy plain.txt - >output 2>errors
equal "standard input: exit code" $? 0
equal "standard input" "$(document_ids piped.npy)" "97,98,256,98,256"
gzip -c ends.jsonl >ends.jsonl.gz
run "${tokenize[@]}" --out packed.npy ends.jsonl.gz
check "a packed file is the file" cmp packed.npy lines.npy

# a warning, and the documents
printf '{"text": "a"}\n{"text": "\\ud83d b \\udc00"}\n' >surrogates.jsonl
run "${tokenize[@]}" --out surrogates.npy surrogates.jsonl
equal "lone surrogates are counted" "$(cat errors)" 'warning: surrogates.jsonl: 2 lone surrogates in "text" '\
'became U+FFFD, the first in line 2: half of a character is missing there'
equal "lone surrogates" "$(document_ids surrogates.npy)" "97,256,239,191,189,32,98,32,239,191,189,256"

# nothing is left after an error, wherever it is
head -c 40 ends.jsonl.gz >cut.jsonl.gz
refuse "cut.jsonl.gz: cannot be unpacked; the program gzip says:" \
    "${tokenize[@]}" --out new.npy plain.txt cut.jsonl.gz
refuse "lines.npy: is token ids of 32 bits" "${tokenize[@]}" --out new.npy plain.txt lines.npy
mkdir folder
refuse "folder: is a directory" "${tokenize[@]}" --out new.npy plain.txt folder
refuse "standard input: is empty" "${tokenize[@]}" --out new.npy plain.txt -
if [ -e /dev/full ]; then
    "$program" detokenize --tokenizer tokenizer.json lines.npy >/dev/full 2>errors
    equal "detokenize to a full disk: exit code" $? 1
    check "detokenize to a full disk: why" grep -q "^error: .*No space left on device" errors
fi

# ---------------------------------------------------------------------------------------------
# added tokens, as add_tokens of transformers writes them

python 'import json
tokenizer = json.load(open("tokenizer.json"))
for content in ("<think>", "</think>", "k><"):
    tokenizer["added_tokens"].append({
        "id": 256 + len(tokenizer["added_tokens"]), "content": content, "normalized": content != "k><",
        "single_word": False, "lstrip": False, "rstrip": False, "special": False})
json.dump(tokenizer, open("added.json", "w"))'
printf 'a<think>b</think>' >think.txt
printf 'a<think></think>' >overlap.txt
run tokenize --tokenizer added.json --out think.npy think.txt
equal "normalized added tokens" "$(document_ids think.npy)" "97,258,98,259,256"
run tokenize --tokenizer added.json --out overlap.npy overlap.txt
equal "those that are not normalized come first" "$(document_ids overlap.npy)" \
    "97,60,116,104,105,110,260,47,116,104,105,110,107,62,256"
run detokenize --tokenizer added.json think.npy
equal "and back" "$(cat output)" "a<think>b</think><|endoftext|>"
if [ -d "$project/../shared/cases" ]; then
    run tokenize --tokenizer "$project/../shared/cases/added_token.json" --out shared.npy \
        "$project/../shared/cases/added_token.txt"
    equal "../shared/cases/added_token.json: <think>, </think>" \
        "$(document_ids shared.npy | tr ',' '\n' | grep -c '^204[89]$')" \
        "$(grep -o '</\?think>' "$project/../shared/cases/added_token.txt" | wc -l)"
else
    echo "skipped: the files of ../shared/cases (not present)"
fi

finish
