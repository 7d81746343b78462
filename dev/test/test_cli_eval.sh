#!/usr/bin/env bash
# test_cli_eval.sh [PROGRAM]: a model measured on questions with given answers: scores, --out and how it
# resumes, tasks by name, and everything that can be wrong with request files.
. "$(dirname "$0")/cli.sh"
shared=$project/../shared/data

# A model of 128 tokens, and requests: 24 questions of 2 to 4 choices behind the same examples, in both forms.
python3 - <<'END'
import gzip, json, random

config = json.load(open("config.json"))
json.dump({**config, "max_position_embeddings": 128}, open("config128.json", "w"))
random.seed(2)
words = "the cat sat on a mat and ran to see who saw it".split()
examples = "".join(f"Question: {a} {b}\nAnswer: {a}\n\n" for a, b in (("cat", "mat"), ("see", "saw")))

def row(task, document, idx, label, context, continuation):
    return {"request_type": "loglikelihood", "doc": {"query": context}, "task_name": task, "doc_id": document,
            "native_id": f"q{document}", "idx": idx, "label": label,
            "request": {"context": context, "continuation": continuation}}

def write(name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    open(name, "w").write(text)
    with gzip.open(name + ".gz", "wt") as file:
        file.write(text)

rc, uncond, mc = [], [], []
for document in range(24):
    choices = [f" {w}" for w in random.sample(words, 2 + document % 3)]
    label = random.randrange(len(choices))
    question = examples + f"Question: {random.choice(words)} {document}\nAnswer:"
    for i, choice in enumerate(choices):
        rc.append(row("piqa", document, i, label, question, choice))
        uncond.append(row("piqa", 1000000 + document, i, label, "Answer:", choice))
        mc.append(row("piqa:mc", document, i, label, question, " " + "ABCD"[i]))
write("rc.jsonl", rc + uncond)
write("mc.jsonl", mc)
write("gold.jsonl", [{**row("gsm8k", d, 0, "12", "Question: 7 + 5?\nAnswer:", " It is 12."),
                      "request_type": "generate_until_and_loglikelihood"} for d in range(3)])

# One thing is wrong with each of these.
def spoil(name, number, **changes):
    rows = json.loads(json.dumps(rc[:4]))
    for key, value in changes.items():
        place = rows[number]["request"] if key in ("context", "continuation") else rows[number]
        if value is None: del place[key]
        else: place[key] = value
    write(name, rows)

write("label.jsonl", [{**r, "label": 9} for r in rc[:2]])

spoil("missing.jsonl", 3, idx=None)
spoil("nothing.jsonl", 1, continuation="")
spoil("type.jsonl", 2, doc_id="2")
spoil("generates.jsonl", 0, request_type="generate_until")
spoil("long.jsonl", 0, continuation=" x" * 100)
spoil("truncated.jsonl", 0, context="x" * 10_000_000)
spoil("endless.jsonl", 0, continuation=" x" * 5_000_000)
spoil("large.jsonl", 0, doc={"query": "x" * 10_000_000})
write("arc.jsonl", [{**r, "task_name": "arc_challenge"} for r in rc[:2]])
open("latin.jsonl", "wb").write(json.dumps(rc[0]).encode().replace(b"cat", b"c\xe9t") + b"\n")
END

run tokenize --tokenizer tokenizer.json --out train.npy train.jsonl
run train --config config128.json --tokenizer tokenizer.json --seq-len 16 --data train.npy --batch-size 8 \
    --steps 20 --out model
run train --config config128.json --tokenizer tokenizer.json --seq-len 16 --data train.npy --batch-size 8 \
    --steps 21 --out other
eval=(eval --load model --requests)

# ---------------------------------------------------------------------------------------------
# scores

run "${eval[@]}" rc.jsonl mc.jsonl --out whole.jsonl
says "requests       rc.jsonl: 24 documents"
cp output table
check "what the lines say is what the table says" python 'import json, math, sys
header, *lines = map(json.loads, open("whole.jsonl"))
assert header["type"] == "eval" and [f["documents"] for f in header["requests"]] == [24, 24]
assert [line["doc_id"] for line in lines] == 2 * list(range(24))
rows = {}
for row in map(json.loads, [*open("rc.jsonl"), *open("mc.jsonl")]):
    if row["doc_id"] < 1000000: rows.setdefault((row["task_name"], row["doc_id"]), []).append(row)
best = lambda values: max(range(len(values)), key=lambda i: values[i])  # the first of equals
right = {}
for line in lines:
    requests = rows[line["task"], line["doc_id"]]
    texts = [row["request"]["continuation"] for row in requests]
    assert line["native_id"] == requests[0]["native_id"] and line["label"] == requests[0]["label"]
    assert line["chars"] == [len(text) for text in texts] and line["tokens"] == line["chars"]
    assert line["bytes"] == [len(text.encode()) for text in texts]
    sums = line["logprobs"]
    choice = {"acc_raw": best(sums), "acc_per_char": best([s / len(t) for s, t in zip(sums, texts)]),
              "acc_per_token": best([s / len(t) for s, t in zip(sums, texts)])}
    assert all(s < 0 for s in sums)
    choice["len_norm_v1"] = best([s / (len(t) - 1) for s, t in zip(sums, texts)])
    if line["task"] == "piqa":
        choice["acc_uncond"] = best([s - u for s, u in zip(sums, line["unconditional"])])
        choice["pmi_dc"] = best([s / u for s, u in zip(sums, line["unconditional"])])
    assert line["choice"] == choice, (line, choice)
    gold = line["label"]
    bits = -sums[gold] / math.log(2) / line["bytes"][gold]
    assert abs(line["bits_per_byte"] - bits) <= 1e-12 * bits
    for name, i in choice.items():
        right.setdefault((line["task"], name), []).append(float(i == gold))
    right.setdefault((line["task"], "bits_per_byte"), []).append(bits)
task, found = "", {}
for text in open("table").read().split("\ntask ")[1].splitlines()[1:]:
    words = text.split()
    if not text.startswith(" "): task, words = words[0], words[2:]
    found[task, words[0]] = words[1:3]
for key, values in right.items():
    mean = sum(values) / len(values)
    error = math.sqrt(max(0, sum(v * v for v in values) / len(values) - mean * mean) / len(values))
    assert found[key] == [f"{mean:.4f}", f"{error:.4f}"], (key, mean, error, found[key])
better = max(found["piqa", "acc_per_char"][0], found["piqa:mc", "acc_raw"][0])
assert found["piqa", "mc_or_rc"][0] == better, found'

# The scores have the same bits however they are computed; a packed file is the same file.
for flags in "--slots 1" "--slots 4" "--slots 3 --threads 2"; do
    run "${eval[@]}" rc.jsonl mc.jsonl --out other.jsonl $flags
    check "the same bits with $flags" cmp whole.jsonl other.jsonl
    rm other.jsonl
done
run "${eval[@]}" rc.jsonl.gz mc.jsonl.gz --out packed.jsonl
check "the same scores of packed files" cmp <(sed 1d whole.jsonl) <(sed 1d packed.jsonl)
run "${eval[@]}" rc.jsonl --limit 5 --out five.jsonl
check "the first documents" cmp <(sed -n 2,6p whole.jsonl) <(sed 1d five.jsonl)

# Where the answer is all there is to score.
run "${eval[@]}" gold.jsonl
grep -q "^gsm8k  *3  bits_per_byte .* primary" output && pass || fail "gold" "$(cat output)"
equal "accuracies of one choice" "$(grep -c acc_ output)" 0

# Requests that are too long lose their beginning; a line may be large.
run "${eval[@]}" truncated.jsonl
grep -q "1 request is longer than the model's 128 tokens" errors && pass || fail "truncated" "$(cat errors)"
run "${eval[@]}" large.jsonl

# ---------------------------------------------------------------------------------------------
# tasks by name

mkdir evals
cp rc.jsonl evals/piqa_rc.jsonl
cp mc.jsonl.gz evals/piqa_mc.jsonl.gz
run eval --load model --task piqa --eval-dir evals
check "the same scores by name" cmp <(sed -n '/^task/,$p' table) <(sed -n '/^task/,$p' output)
run eval --load model --task piqa:mc --eval-dir evals
equal "one form" "$(grep -c '^piqa' output)" 1
refuse "--task pika: no such task; did you mean piqa? (The tasks are arc_easy" eval --load model --task pika
refuse "--task piqa:xx: no such task" eval --load model --task piqa:xx --eval-dir evals
refuse "evals/boolq_rc.jsonl.gz: no such file; python3 data/evals.py makes" \
    eval --load model --task piqa boolq --eval-dir evals
refuse "evals/arc_easy_rc.jsonl.gz: no such file" eval --load model --task olmes --eval-dir evals

# ---------------------------------------------------------------------------------------------
# --out: an evaluation that was interrupted continues

interrupted() {  # WHAT: what is there is the beginning of whole.jsonl; the same command makes the rest
    local size
    size=$(wc -c <part.jsonl)
    check "$1: nothing but whole lines, except the last" cmp -n "$size" part.jsonl whole.jsonl
    run "${eval[@]}" rc.jsonl mc.jsonl --out part.jsonl
    check "$1: continued" cmp part.jsonl whole.jsonl
    check "$1: the table" cmp <(sed -n '/^task/,$p' table) <(sed -n '/^task/,$p' output)
}
for lines in 1 2 9 25 26 48; do
    head -n $lines whole.jsonl >part.jsonl
    sed -n "$((lines + 1))p" whole.jsonl | head -c 40 >>part.jsonl
    interrupted "after line $lines"
done
cp whole.jsonl part.jsonl
interrupted "a whole file"
head -c 70 whole.jsonl >part.jsonl  # within the first line
interrupted "in the first line"
: >part.jsonl
interrupted "an empty file"

# Killed at any moment. One slot and many requests, so that there is a moment between two lines.
python3 - <<'END'
rows = open("rc.jsonl").read().splitlines()
import json
rows = [json.loads(row) for row in rows]
for name, times in ("many.jsonl", 40), ("long_run.jsonl", 300):
    with open(name, "w") as file:
        for k in range(times):
            for row in rows:
                file.write(json.dumps({**row, "doc_id": row["doc_id"] + 24 * k}) + "\n")
END
run "${eval[@]}" many.jsonl --out many_whole.jsonl
shows_progress 'documents: [1-9]\d* of 7200, \S+ left, piqa' "${eval[@]}" long_run.jsonl --slots 1
rm long_run.jsonl
for signal in KILL TERM; do
    rm -f many_part.jsonl
    "$program" "${eval[@]}" many.jsonl --out many_part.jsonl --slots 1 >output 2>errors </dev/null &
    for _ in $(seq 3000); do
        [ -f many_part.jsonl ] && [ "$(wc -l <many_part.jsonl)" -gt 3 ] && break
        sleep 0.01
    done
    kill -$signal $!
    wait $! 2>/dev/null
    code=$?
    if [ $signal = TERM ]; then
        equal "exit code after SIGTERM" $code 1
        grep -q "stopped after .* of 960 documents; the same command continues" errors && pass ||
            fail "SIGTERM" "$(cat errors)"
    fi
    lines=$(wc -l <many_part.jsonl)
    check "ended by SIG$signal in between" test "$lines" -lt 961
    run "${eval[@]}" many.jsonl --out many_part.jsonl
    check "continued after SIG$signal" cmp many_part.jsonl many_whole.jsonl
done

# The file appears while the model is loaded: nobody reads standard error, so the program waits before it says
# what the weights are.
check "what another process has written meanwhile stays" python 'import os, subprocess, sys, time
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True: os.write(writer, bytes(4096))
except BlockingIOError: os.set_blocking(writer, True)
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=writer)
os.close(writer)
time.sleep(1)
with open("raced.jsonl", "w") as file: file.write("written meanwhile\n")
while os.read(reader, 65536): pass
process.wait()
assert process.returncode == 1 and open("raced.jsonl").read() == "written meanwhile\n"' \
    "$program" "${eval[@]}" rc.jsonl mc.jsonl --out raced.jsonl

# It must be the same evaluation. --weights is what the weights become: auto and fp32 are the same for fp32.
head -n 9 whole.jsonl >part.jsonl
run "${eval[@]}" rc.jsonl mc.jsonl --out part.jsonl --weights fp32
check "the same weights by another word" cmp part.jsonl whole.jsonl
head -n 9 whole.jsonl >part.jsonl
refuse "part.jsonl: holds scores of the model" eval --load other --requests rc.jsonl mc.jsonl --out part.jsonl
refuse "part.jsonl: holds scores of the requests rc.jsonl" "${eval[@]}" mc.jsonl rc.jsonl --out part.jsonl
sed 's/"CPU"/"CUDA"/' part.jsonl >other_backend.jsonl
refuse "other_backend.jsonl: holds scores computed with the backend CUDA, this is the backend CPU" \
    "${eval[@]}" rc.jsonl mc.jsonl --out other_backend.jsonl
sed 's/"dtype": "fp32", //' part.jsonl >no_dtype.jsonl
refuse "no_dtype.jsonl: holds scores computed with --dtype ?, this is --dtype fp32" \
    "${eval[@]}" rc.jsonl mc.jsonl --out no_dtype.jsonl
refuse "part.jsonl: holds scores of 2 request files, now there is 1" "${eval[@]}" rc.jsonl --out part.jsonl
refuse "part.jsonl: holds scores computed with --limit 0, this is --limit 3" \
    "${eval[@]}" rc.jsonl mc.jsonl --limit 3 --out part.jsonl
refuse "part.jsonl: holds scores computed with --dtype fp32, this is --dtype bf16" \
    "${eval[@]}" rc.jsonl mc.jsonl --dtype bf16 --out part.jsonl
refuse "part.jsonl: holds scores computed with --weights fp32, this is --weights bf16" \
    "${eval[@]}" rc.jsonl mc.jsonl --weights bf16 --out part.jsonl
printf '{' >brace.jsonl
printf '{"type": "eval_task", "step": 5}' >log.jsonl
ln -s nowhere.jsonl dangling.jsonl
refuse "brace.jsonl: is not the file of an evaluation" "${eval[@]}" rc.jsonl mc.jsonl --out brace.jsonl
refuse "log.jsonl: is not the file of an evaluation" "${eval[@]}" rc.jsonl mc.jsonl --out log.jsonl
refuse "dangling.jsonl: is not a regular file" "${eval[@]}" rc.jsonl mc.jsonl --out dangling.jsonl
refuse "a.txt: is not the file of an evaluation" "${eval[@]}" rc.jsonl mc.jsonl --out a.txt
refuse "rc.jsonl: is not the file of an evaluation" "${eval[@]}" rc.jsonl mc.jsonl --out rc.jsonl
refuse "evals: is not a regular file" "${eval[@]}" rc.jsonl --out evals
refuse "none/out.jsonl: cannot be created" "${eval[@]}" rc.jsonl --out none/out.jsonl
sed -i '5s/"doc_id": 3/"doc_id": 4/' part.jsonl
refuse "part.jsonl line 5: is document 4 of piqa, expected 3" "${eval[@]}" rc.jsonl mc.jsonl --out part.jsonl
sed -i '5s/.*/{"task": /' part.jsonl
refuse "part.jsonl line 5:1:10: found the end" "${eval[@]}" rc.jsonl mc.jsonl --out part.jsonl
head -n 50 whole.jsonl | tail -n 1 | cat whole.jsonl - >part.jsonl
refuse "part.jsonl line 50: there are no more documents" "${eval[@]}" rc.jsonl mc.jsonl --out part.jsonl
head -n 9 whole.jsonl >part.jsonl
start_program() { flock part.jsonl "$program" "$@"; }
refuse "part.jsonl: another process is writing it" "${eval[@]}" rc.jsonl mc.jsonl --out part.jsonl
equal "before the model is loaded" "$(grep -c weights: errors)" 0
start_program() { "$program" "$@"; }

# ---------------------------------------------------------------------------------------------
# during training

new=(train --config config128.json --tokenizer tokenizer.json --seq-len 16 --data train.npy --batch-size 8
     --steps 20 --sample-every 7 --sample-tokens 5)
asks=(--eval-task rc.jsonl mc.jsonl.gz --eval-every 5 --eval-limit 20)
run "${new[@]}" --out silent
run "${new[@]}" "${asks[@]}" --out asked
says "tasks          40 questions of 2 files, 8 side by side, up to "
says "piqa at step 5: acc_per_char "
says "piqa:mc at step 20: acc_raw "
check "questions do not disturb the training" cmp {silent,asked}/step-00000020/model.safetensors
scores() { grep '"eval_task"' "$1/log.jsonl"; }
equal "scores in the log" "$(scores asked | wc -l)" 8
run "${eval[@]/model/asked}" rc.jsonl mc.jsonl --limit 20
check "the last scores are those of eval" python 'import json
lines = [json.loads(line) for line in open("asked/log.jsonl")]
scores = {line["task"]: line for line in lines if line["type"] == "eval_task" and line["step"] == 20}
for text in open("output").read().split("\ntask ")[1].splitlines()[1:]:
    words = text.split()
    if words[0] in scores and words[2] != "mc_or_rc":
        score = scores[words[0]]
        assert [score["metric"], "%.4f" % score["score"], "%.4f" % score["std_error"]] == words[2:5], (text, score)
        assert score["documents"] == 20 and score["metrics"][words[2]] == score["score"], score
        del scores[words[0]]
assert not scores, scores'
run "${new[@]}" "${asks[@]}" --out resumed --stop-at 12
run train --resume resumed
check "resumed: the same scores" cmp <(scores asked) <(scores resumed)
check "resumed: the same weights" cmp {asked,resumed}/step-00000020/model.safetensors
run "${new[@]}" "${asks[@]}" --out changed --stop-at 12
run train --resume changed --eval-task gold.jsonl
says "changed        --eval-task: scores from here on are those of these questions"
says "gsm8k at step 15: bits_per_byte "
run "${new[@]}" "${asks[@]}" --dry-run
says "tasks          40 questions"
refuse "missing.jsonl line 4: \"idx\" is missing" "${new[@]}" --eval-task rc.jsonl missing.jsonl --out refused
refuse "mc.jsonl.gz: holds piqa:mc, which " "${new[@]}" --eval-task mc.jsonl mc.jsonl.gz --out refused
refuse "--eval-limit: needs --eval-task" "${new[@]}" --eval-limit 3 --out refused
refuse "--eval-every: needs --val-data or --eval-task" "${new[@]}" --eval-every 3 --out refused
refuse "long.jsonl line 1: \"continuation\" has 200 tokens" "${new[@]}" --eval-task long.jsonl --out refused

# ---------------------------------------------------------------------------------------------
# what can be wrong

refuse "eval: expected one of --data (token files), --requests" eval --load model
refuse "found several" eval --load model --data train.npy --requests rc.jsonl
refuse "--limit: is for --requests and --task" eval --load model --data train.npy --limit 3
refuse "--out: is for --requests and --task" eval --load model --data train.npy --out x.jsonl
refuse "--batch-size: is for --data; --slots" "${eval[@]}" rc.jsonl --batch-size 3
refuse "--eval-dir: is for --task" "${eval[@]}" rc.jsonl --eval-dir evals
refuse "--slots 0" "${eval[@]}" rc.jsonl --slots 0
refuse "none.jsonl: cannot be opened" "${eval[@]}" none.jsonl
refuse "empty.txt: is empty" "${eval[@]}" empty.txt
refuse "label.jsonl line 1: \"label\" is 9, expected 0 to 1: the document has 2 choices" "${eval[@]}" label.jsonl
refuse "missing.jsonl line 4: \"idx\" is missing" "${eval[@]}" missing.jsonl
refuse "nothing.jsonl line 2, in \"request\": \"continuation\" is empty" "${eval[@]}" nothing.jsonl
refuse "type.jsonl line 3: \"doc_id\" is the string \"2\"" "${eval[@]}" type.jsonl
refuse "generates.jsonl line 1: \"request_type\" is \"generate_until\"" "${eval[@]}" generates.jsonl
refuse "long.jsonl line 1: \"continuation\" has 200 tokens, the model takes 128" "${eval[@]}" long.jsonl
refuse "endless.jsonl line 1: \"continuation\" has 10000000 tokens" "${eval[@]}" endless.jsonl
refuse "latin.jsonl line 1:" "${eval[@]}" latin.jsonl
refuse "arc.jsonl line 1: arc_challenge is scored by acc_uncond, which needs" "${eval[@]}" arc.jsonl
refuse "mc.jsonl.gz: holds piqa:mc, which mc.jsonl holds too" "${eval[@]}" mc.jsonl mc.jsonl.gz
head -c 1000 rc.jsonl.gz >damaged.jsonl.gz
refuse "damaged.jsonl.gz: cannot be unpacked" "${eval[@]}" damaged.jsonl.gz
rm model/tokenizer/tokenizer.json model/step-*/tokenizer.json
refuse "--tokenizer: is missing" "${eval[@]}" rc.jsonl
run "${eval[@]}" rc.jsonl --tokenizer tokenizer.json

# ---------------------------------------------------------------------------------------------
# the requests of AI2

if [ -f "$shared/tokenizer/dolma2_tokenizer.json" ] && [ -d "$shared/evals/olmes" ]; then
    python3 - <<'END'
import json
config = json.load(open("config.json"))
json.dump({**config, "max_position_embeddings": 2048, "vocab_size": 100352}, open("config2048.json", "w"))
END
    run tokenize --tokenizer "$shared/tokenizer/dolma2_tokenizer.json" --out real.npy train.jsonl
    run train --config config2048.json --tokenizer "$shared/tokenizer/dolma2_tokenizer.json" --seq-len 16 \
        --data real.npy --batch-size 8 --steps 1 --out real
    for file in "$shared"/evals/*shot.jsonl.gz "$shared"/evals/olmes/*.jsonl.gz; do
        run eval --load real --requests "$file" --limit 2
    done
else
    echo "skipped: AI2's request files ($shared is missing)"
fi

finish
