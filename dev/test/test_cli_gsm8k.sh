#!/usr/bin/env bash
# test_cli_gsm8k.sh [PROGRAM]: eval --task gsm8k: its texts, answers and scores, --out and how it resumes, chats,
# and what is refused.
. "$(dirname "$0")/cli.sh"

# A model of 700 tokens that has read questions with answers, and seven questions.
python3 - <<'END'
import gzip, json, random

config = json.load(open("config.json"))
config.update(max_position_embeddings=700, hidden_size=32, intermediate_size=64, num_attention_heads=4)
json.dump(config, open("config700.json", "w"))
json.dump({**config, "max_position_embeddings": 64}, open("config64.json", "w"))
random.seed(3)
turn = lambda: f"Question: {random.randrange(9)} and?\nAnswer: It is {random.randrange(9)}.\n\n"
with open("questions.jsonl", "w") as file:
    for _ in range(300):
        print(json.dumps({"text": "".join(turn() for _ in range(4))}), file=file)
examples = "Question: 1 and?\nAnswer: It is 1.\n\nQuestion: 2 and?\nAnswer: It is 2.\n\n"
rows = []
for i, gold in enumerate(["5", "-3", "1,234", "0", "7", "8", "9"]):
    rows.append({"request_type": "generate_until", "task_name": "gsm8k", "doc_id": i, "native_id": i, "idx": 0,
                 "doc": {"question": f"{i} and?", "answer": f"It is <<{gold}>>\n#### {gold}"}, "label": gold,
                 "request": {"context": f"{examples}Question: {i} and?\nAnswer:"}})

def write(folder, rows):
    with gzip.open(f"{folder}/gsm8k.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

import os
for folder in "evals", "other", "raw", "long":
    os.mkdir(folder)
write("evals", rows)
write("other", rows[:3])
write("raw", [rows[0]["doc"]])
write("long", [{**rows[0], "request": {"context": "Question: " + "x" * 800 + "\nAnswer:"}}])
with open("prompts.jsonl", "w") as file:
    file.writelines(json.dumps({"prompt": row["request"]["context"]}) + "\n" for row in rows)
json.dump({"chat_template": "{{ messages }}"}, open("template.json", "w"))
END

run tokenize --tokenizer tokenizer.json --out train.npy questions.jsonl
train=(train --tokenizer tokenizer.json --seq-len 64 --data train.npy --batch-size 8 --lr 1e-2)
run "${train[@]}" --config config700.json --steps 60 --out model
run "${train[@]}" --config config64.json --steps 1 --out short
run "${train[@]}" --config config700.json --steps 2 --out second
gsm8k=(eval --load model --task gsm8k --eval-dir evals)

# ---------------------------------------------------------------------------------------------
# texts and scores

run "${gsm8k[@]}" --out whole.jsonl
cp output table
says "questions      evals/gsm8k.jsonl.gz: 7"
run generate --load model --prompts prompts.jsonl --temperature 0 --max-tokens 512 --out texts.jsonl \
    --stop "Question:" --stop "</s>" --stop "<|im_end|>" --stop $'\n\n'
check "texts, answers and the table" python 'import json, math, re
header, *lines = map(json.loads, open("whole.jsonl"))
texts = [json.loads(line)["text"] for line in open("texts.jsonl")][-7:]
assert header["type"] == "eval" and [line["doc_id"] for line in lines] == list(range(7))
right = [[], []]
for line, text, gold in zip(lines, texts, ["5", "-3", "1234", "0", "7", "8", "9"]):
    assert line["text"] == text, (line, text)
    assert "\n\n" not in text and "Question:" not in text
    plain = re.sub(r"(\d),(\d)", r"\1\2", text)
    for rule, pattern in enumerate((r"[-+]?\d*\.\d+|\d+", r"[-+]?(?:\d*\.\d+|\d+)")):
        numbers = re.findall(pattern, plain)
        answer = numbers[-1] if numbers else text
        right[rule].append(answer == (gold if rule else gold.lstrip("-")))
        assert rule or line["answer"] == answer, (line, answer)
    assert [line["right"], line["right_signed"]] == [r[-1] for r in right], line
    assert line["gold"] == gold.lstrip("-") and line["end"] in ("stop", "max_tokens", "end_token"), line
assert any(line["end"] == "stop" for line in lines), "no text was stopped"
found = {words[-3]: words[-2:] for words in (line.replace("primary", "").split()
         for line in open("table")) if len(words) > 2 and words[-3] in ("exact_match", "signed")}
for name, values in zip(("exact_match", "signed"), right):
    mean = sum(values) / 7
    assert found[name] == [f"{mean:.4f}", f"{math.sqrt(mean * (1 - mean) / 7):.4f}"], (name, mean, found)'

for flags in "--slots 1" "--slots 3 --threads 2"; do
    run "${gsm8k[@]}" --out again.jsonl $flags
    check "the same with $flags" cmp whole.jsonl again.jsonl
    rm again.jsonl
done
run "${gsm8k[@]}" --limit 2 --out two.jsonl
check "the first questions" cmp <(sed -n 2,3p whole.jsonl) <(sed 1d two.jsonl)

# Chats: the examples are turns. The blank line ends nothing, so texts differ from those above.
run "${gsm8k[@]}" --chat --out chat.jsonl
says "with the examples as turns of a chat"
equal "questions of the chat" "$(wc -l <chat.jsonl)" 8
check "another prompt, other texts" python 'import json
one, two = ([json.loads(line).get("text") for line in open(name)] for name in ("whole.jsonl", "chat.jsonl"))
assert one != two'

# ---------------------------------------------------------------------------------------------
# interrupted evaluations

for lines in 1 4 8; do
    head -n $lines whole.jsonl >part.jsonl
    [ $lines -eq 4 ] && printf '{"task": "gsm8k", "doc' >>part.jsonl
    run "${gsm8k[@]}" --out part.jsonl
    check "continued behind $lines lines" cmp whole.jsonl part.jsonl
    check "the same score" cmp <(tail -n 3 table) <(tail -n 3 output)
done
: >part.jsonl
run "${gsm8k[@]}" --out part.jsonl
check "an empty file" cmp whole.jsonl part.jsonl
refuse "holds scores computed with --chat off, this is --chat on" "${gsm8k[@]}" --chat --out whole.jsonl
refuse "holds scores computed with --chat on, this is --chat off" "${gsm8k[@]}" --out chat.jsonl
refuse "holds scores of the requests" eval --load model --task gsm8k --eval-dir other --out whole.jsonl
refuse "holds scores computed with --limit 0, this is --limit 3" "${gsm8k[@]}" --limit 3 --out whole.jsonl
refuse "holds scores of the model" eval --load second --task gsm8k --eval-dir evals --out whole.jsonl
refuse "is not the file of an evaluation" "${gsm8k[@]}" --out questions.jsonl
step=$(ls -d model/step-* | tail -n 1)
cp no_begin.json "$step/tokenizer_config.json"
refuse "holds scores computed with --chat on, this is --chat on, without a begin token" \
    "${gsm8k[@]}" --chat --out chat.jsonl
rm "$step/tokenizer_config.json"
sed '3s/"doc_id": 1/"doc_id": 5/' whole.jsonl >wrong.jsonl
refuse "line 3: is question 5, expected 1" "${gsm8k[@]}" --out wrong.jsonl
sed '3s/"right": /"wrong": /' whole.jsonl >wrong.jsonl
refuse "\"right\" is missing" "${gsm8k[@]}" --out wrong.jsonl
(cat whole.jsonl && tail -n 1 whole.jsonl) >wrong.jsonl
refuse "line 9: there are no more documents" "${gsm8k[@]}" --out wrong.jsonl

# ---------------------------------------------------------------------------------------------
# what is refused

refuse "nothing/gsm8k.jsonl.gz: no such file; python3 data/evals.py makes it" \
    eval --load model --task gsm8k --eval-dir nothing
refuse "as published, without the examples of a prompt" eval --load model --task gsm8k --eval-dir raw
refuse "gsm8k.jsonl.gz line 1: has" eval --load model --task gsm8k --eval-dir long
refuse "gsm8k.jsonl.gz line 1: has" eval --load short --task gsm8k --eval-dir evals
refuse "give it by itself" eval --load model --task gsm8k --task piqa --eval-dir evals
refuse "--chat: only --task gsm8k" eval --load model --task piqa --chat --eval-dir evals
step=$(ls -d model/step-* | tail -n 1)
cp template.json "$step/tokenizer_config.json"
refuse "template" "${gsm8k[@]}" --chat
finish
