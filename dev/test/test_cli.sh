#!/usr/bin/env bash
# test_cli.sh [PROGRAM]: the program as a person meets it. What must be equal is equal bit for bit; every bad
# input is a clear error with exit code 1, after which every file is as it was. Needs bash and Python 3.
. "$(dirname "$0")/cli.sh"

# ---------------------------------------------------------------------------------------------
# help

check "--help" "$program" --help
for command in train generate eval soup tokenize detokenize inspect; do
    run $command --help
    says "--help"
    equal "$command --help: lines above 80 columns" "$(grep -vF "$program" output | awk 'length > 80')" ""
done
run train --help
says "(default: 0.9)"
refuse "trian: no such command; did you mean train?" trian
refuse "--batch-siez=4: no such flag; did you mean --batch-size?" train --batch-siez=4
"$program" >output 2>errors
equal "no arguments: exit code, first word" "$? $(head -c 6 errors)" "1 usage:"

# ---------------------------------------------------------------------------------------------
# tokens in and out

run tokenize --tokenizer tokenizer.json --out train.npy train.jsonl
says "100 documents"
run tokenize --tokenizer . --out=val.npy val.jsonl
run tokenize --tokenizer tokenizer.json --out a.npy a.txt train.jsonl a.txt
run detokenize --tokenizer tokenizer.json a.npy
{ cat a.txt; printf '<|endoftext|>'; python 'import json
for line in open("train.jsonl"): print(json.loads(line)["text"], end="<|endoftext|>")'
  cat a.txt; printf '<|endoftext|>'; } >expected
check "detokenize gives the text back" cmp output expected
refuse "--out train.npy: exists" tokenize --tokenizer tokenizer.json --out train.npy a.txt
refuse "nothing.txt" tokenize --tokenizer tokenizer.json --out new.npy a.txt nothing.txt
refuse "empty.txt: is empty" tokenize --tokenizer tokenizer.json --out new.npy empty.txt
refuse 'bad.jsonl:2: expected an object with a string "text"' \
    tokenize --tokenizer . --out new.npy bad.jsonl
refuse "broken.jsonl:2: the line ends inside its object" tokenize --tokenizer . --out new.npy broken.jsonl
refuse "new/x.npy" tokenize --tokenizer . --out new/x.npy a.txt
refuse "WordPiece" tokenize --tokenizer wordpiece.json --out new.npy a.txt
refuse "broken.json" tokenize --tokenizer broken.json --out new.npy a.txt
refuse "nothing.json" tokenize --tokenizer nothing.json --out new.npy a.txt
refuse "text.npy: token 0 has id" detokenize --tokenizer tokenizer.json text.npy

# ---------------------------------------------------------------------------------------------
# the first step: initial weights, clipping, the moments

run "${new[@]}" --out first --steps 1 --clip 0.01 --lr 1e-30 --weight-decay 0
check "initial weights, clipping, names of the moments" python '
import array, json, math, struct
def tensors(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    return {k: array.array("f", data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
            for k, t in json.loads(data[8:8 + n]).items() if k != "__metadata__"}
step = "first/step-00000001/"
p, m = tensors(step + "model.safetensors"), tensors(step + "trainer/optimizer.safetensors")
norm = math.sqrt(sum(x * x for k in p for x in m["exp_avg." + k])) / 0.1  # m = (1 - beta1) g, |g| clipped
assert abs(norm - 0.01) < 1e-6, norm
for k, t in p.items():
    v = m["exp_avg_sq." + k]
    assert all(abs(b - 0.05 * (a / 0.1) ** 2) <= 1e-5 * max(v) for a, b in zip(m["exp_avg." + k], v)), k
    if "norm" in k:
        assert all(x == 1 for x in t), k
        continue
    std = math.sqrt(sum(x * x for x in t) / len(t))  # of a normal distribution cut at 3 deviations: 0.9866
    assert abs(std / 0.01973 - 1) < 5 / math.sqrt(2 * len(t)) and max(map(abs, t)) <= 0.06 * (1 + 1e-6), k'

# ---------------------------------------------------------------------------------------------
# 20 steps = 10 + resume + 10 = 7 + SIGTERM + ..., and the same bits for any number of threads

whole=("${new[@]}" --val-data val.npy --steps 20 --eval-every 5 --eval-instances 9 --save-every 10
    --sample-every 10 --sample-tokens 12)
run "${whole[@]}" --out whole
says "whole: complete, 20 steps"
says "validation at step 20: loss"
says "bits per byte"
check "the plan and the lines fit 80 columns" python 'import sys
plan = open("output", errors="replace").read().split("sample at")[0]
sys.exit(max(map(len, plan.splitlines())) > 80)'

same() {  # RUN STEP [RUN]: weights and optimizer of both runs have the same bits
    local step other=${3:-whole}
    step=step-$(printf %08d "$2")
    check "$1 and $other at $2: weights" cmp "$1/$step/model.safetensors" "$other/$step/model.safetensors"
    check "$1 and $other at $2: optimizer" \
        cmp "$1/$step/trainer/optimizer.safetensors" "$other/$step/trainer/optimizer.safetensors"
}

same_log() {  # RUN: its log is that of the whole run, except speed, settings and additional saves
    check "the log of $1" python 'import json, sys
def lines(run):
    for line in map(json.loads, open(run + "/log.jsonl")):
        line.pop("tokens_per_second", None)
        if line["type"] == "run":
            line.pop("backend"); line.pop("settings")
        if line["type"] != "save":
            yield line
a, b = list(lines("whole")), list(lines(sys.argv[1]))
sys.exit(f"{a} {b}" if a != b or len(a) != 1 + 20 + 4 + 2 else 0)' "$1"
}

run "${whole[@]}" --out again
same again 20
run "${whole[@]}" --out halves --stop-at 10
says "stopped at step 10 of 20"
says "train --resume halves"
run train --resume halves
same halves 20
same_log halves
run train --resume halves
says "halves: complete, 20 steps"

run "${whole[@]}" --out odd --stop-at 7
run train --resume odd --stop-at 13 --threads 1
run train --resume odd --log-every 5 --threads 2
same odd 20
same_log odd

export OMP_NUM_THREADS=2
run "${whole[@]}" --out two --threads 2
says "2 threads"
same two 20
export OMP_NUM_THREADS=1

# The profile changes no bit either, and covers the steps after the first.
profiled() {  # STEPS: the table of the last run covers that many
    says "profile        $1, "
    check "the table of $1" python 'import re, sys
text = open("output", errors="replace").read()
table = text[text.index("\nfunction ") + 1:].split("\n\n")[0].splitlines()
assert len(table) == 1 + 19 + 1 and max(map(len, table)) <= 80, table
pattern = r"(\w+) +(\S+) +(\S+) +(\S+) % +\S+ (?:GB/s|GFLOP/s) +\S+ %"
rows = [re.fullmatch(pattern, line) for line in table[1:-1]]
rest = re.fullmatch(r"the rest of the step +(\S+) +(\S+) %", table[-1])
calls = {row[1]: float(row[2]) for row in rows}
for name in "embedding rmsnorm rmsnorm_residual matmul qknorm_rope attention swiglu classifier".split():
    assert {name + "_forward", name + "_backward"} <= set(calls), name
assert calls["olmo2_zero_gradients"] == 1 and calls["attention_forward"] == 2, calls  # of two layers
times = [float(row[3]) for row in rows]
assert times == sorted(times, reverse=True), times
shares = [float(row[4]) for row in rows] + [float(rest[2])]
assert min(shares) >= 0 and abs(sum(shares) - 100) <= 0.05 * len(shares), shares'
}
run "${whole[@]}" --out profiled --stop-at 10 --profile
profiled "9 steps"
says "stopped at step 10 of 20"
run train --resume profiled --stop-at 11 --profile
profiled "1 step"
run train --resume profiled
equal "a profile unasked for" "$(grep -c ^function output)" 0
same profiled 20
same_log profiled

# Products of bf16 give another run, close by and as repeatable; where the processor has none, they are
# refused.
if grep -qsw avx512_bf16 /proc/cpuinfo; then
    run "${whole[@]}" --out coarse --dtype bf16 --stop-at 10
    says "fp32 with products of bf16"
    run train --resume coarse
    run "${whole[@]}" --out coarse_whole --dtype bf16
    check "the weights of coarse" cmp {coarse,coarse_whole}/step-00000020/model.safetensors
    check "the losses of coarse" python 'import json
losses = [[json.loads(line)["loss"] for line in open(run + "/log.jsonl") if "\"step\"" in line[:20]]
          for run in ("whole", "coarse")]
distances = [abs(a - b) for a, b in zip(*losses)]
assert len(distances) == 20 and 0.0 < max(distances) <= 2e-2, distances'
    run generate --load coarse --prompt "Once" --max-tokens 5 --dtype bf16
    run "${whole[@]}" --out fine --dtype bf16 --stop-at 10
    run train --resume fine --dtype fp32
    equal "products of bf16 after --dtype fp32" "$(grep -c bf16 output)" 0
else
    refuse "--dtype bf16: this program was built" "${whole[@]}" --out coarse --dtype bf16
fi

# The signal comes at some moment after the first step; whatever step it is, the run ends with the same bits.
# The tokenizer is gone by then.
for signal in TERM INT; do
    cp tokenizer.json gone.json
    set -m
    "$program" train --config config.json --tokenizer gone.json --data train.npy --batch-size 8 \
        --out "stop$signal" --steps 300000 --save-every 0 >output 2>errors &
    pid=$!
    set +m
    for _ in $(seq 3000); do  # a minute at most, for machines that are slow or busy
        grep -q '"step"' "stop$signal/log.jsonl" 2>/dev/null && break
        sleep 0.02
    done
    rm gone.json
    kill -$signal $pid
    wait $pid
    code=$?
    if [ $code -eq 0 ]; then pass; else fail "SIG$signal: exit code $code" "$(cat output errors)"; fi
    says "$program train --resume stop$signal"
    at=$(sed -n 's/^stopped at step \([0-9]*\) of 300000.*/\1/p' output)
    more=$((at + 5))
    run train --resume "stop$signal" --stop-at $more
    run "${new[@]}" --out "through$signal" --steps 300000 --save-every 0 --stop-at $more
    same "stop$signal" $more "through$signal"
done

check "the tokenizer is kept" cmp tokenizer.json stopTERM/tokenizer/tokenizer.json
# A shell understands the command that the program prints for resuming.
run "${new[@]}" --out "it's a \$run" --steps 2 --stop-at 1
check "a name with quotes" bash -c "$(tail -n 1 output)"
check "a name with quotes, complete" test -d "it's a \$run/step-00000002"

# ---------------------------------------------------------------------------------------------
# one batch in parts of any size

run train --config 1M --seq-len 2048 --vocab-size 260 --data train.npy train.npy train.npy --batch-size 9 \
    --steps 1 --out parts
says "9 sequences, 18.4k tokens, in 3 micro-batches"

for micro in 8 4 3 1; do run "${new[@]}" --out "micro$micro" --steps 5 --micro-batch-size $micro; done
check "micro-batches of 8, 4, 3 and 1 sequences" python 'import json, sys
def steps(micro):
    return [line for line in map(json.loads, open(f"micro{micro}/log.jsonl")) if line["type"] == "step"]
for micro in (4, 3, 1):
    for a, b in zip(steps(8), steps(micro)):
        for key in ("loss", "z", "gradient_norm"):
            print(micro, a["step"], key, a[key], b[key])
            if not abs(a[key] - b[key]) <= 2e-5 * abs(a[key]): sys.exit(1)'

# ---------------------------------------------------------------------------------------------
# settings that change the run

value() { python 'import json, sys
rows = [line for line in map(json.loads, open(sys.argv[1] + "/log.jsonl")) if line["type"] == "step"]
print(*(row[sys.argv[2]] for row in rows))' "$1" "$2"; }

run "${new[@]}" --out ablated --steps 2 --ablate qk-norm,post-norm,z-loss
equal "z-loss off" "$(value ablated z)" "0.0 0.0"
check "a study model names itself" grep -q olmo2-study ablated/step-00000002/config.json
run generate --load ablated --max-tokens 3
run "${new[@]}" --out linear --tokens 1000 --schedule linear --lr 1e-3 --warmup-steps 2
equal "1000 tokens are 8 steps of 8 x 16" "$(value linear lr | cut -d' ' -f1,2,8)" "0.0005 0.001 0.0"
repeats=(train --config config.json --data repeats.npy --batch-size 40)
"$program" "${repeats[@]}" --out masked --epochs 1 --filter-max-count 7 >output 2>errors
equal "a run in which every instance repeats: exit code" "$?" 1
says "mask 40"
check "it says why" grep -q "no step of the run had a label" errors
equal "every instance repeats" "$(value masked masked) $(value masked loss)" "40 None"
run train --config config.json --data repeats.npy train.npy --batch-size 400 --epochs 1 --filter-max-count 7 \
    --out mixed
says "1 steps, 6.40k tokens, 1.00 epochs"
check "filtered sequences do not lower the loss" python 'import math, sys
assert int(sys.argv[1]) > 20 and abs(float(sys.argv[2]) - math.log(260)) < 0.1, sys.argv' \
    "$(value mixed masked)" "$(value mixed loss)"
run "${repeats[@]}" --out unmasked --epochs 3 --instance-filter off
equal "the filter is off" "$(value unmasked masked)" "0 0 0"
run "${new[@]}" --out kept --steps 9 --save-every 1 --keep 2 --keep-every 4
equal "checkpoints kept" "$(cd kept && echo step-*)" "step-00000004 step-00000008 step-00000009"
preset=(train --config 1M --seq-len 16 --data train.npy --batch-size 4 --steps 1)
run "${preset[@]}" --vocab-size 260 --out preset
equal "no tokenizer, no tokenizer.json" "$(cd preset/step-00000001 && echo tokenizer*)" "tokenizer*"
run "${preset[@]}" --tokenizer tokenizer.json --out rounded
check "the tokenizer's size, rounded up" grep -q '"vocab_size": 384' rounded/step-00000001/config.json
check "its end of document" grep -q '"eos_token_id": 256' rounded/step-00000001/config.json
check "a line is refreshed on a terminal" python 'import os, pty, sys
data = b""
def read(fd):
    global data
    chunk = os.read(fd, 65536)
    data += chunk
    return chunk
code = pty.spawn(sys.argv[1:], read, lambda fd: b"")
sys.exit(code != 0 or data.count(b"\r\x1b[K") < 4 or b"complete, 6 steps" not in data)' \
    "$program" "${new[@]}" --out terminal --steps 6 --log-every 6

# ---------------------------------------------------------------------------------------------
# a model in use

run train --load whole --data train.npy --batch-size 8 --steps 2 --out further
check "fresh moments" python 'import json
assert json.load(open("further/step-00000002/trainer/state.json"))["updates"] == 2'
run train --load whole --load-optimizer --data train.npy --batch-size 8 --steps 2 --out midtrain
check "the optimizer continues its count" python 'import json
assert json.load(open("midtrain/step-00000002/trainer/state.json"))["updates"] == 22'

run generate --load whole --prompt "the cat" --max-tokens 6 --temperature 0
cp output greedy
run generate --load whole/step-00000020 --prompt "the cat" --max-tokens 6 --temperature 0 --seed 5
check "greedy text has one outcome" cmp output greedy
check "it begins with the prompt" grep -q '^the cat' greedy
run generate --load whole --max-tokens 12 --seed 7
cp output drawn
run generate --load whole --max-tokens 12 --seed 7
check "the same seed draws the same" cmp output drawn
run generate --load whole --max-tokens 12 --seed 8
if cmp -s output drawn; then fail "another seed draws the same"; else pass; fi

run eval --load whole --data val.npy --batch-size 3
cp output evaluation
run eval --load whole --data val.npy --batch-size 8
check "eval does not depend on the batch" python 'import math, re
def numbers(name):
    return [float(x) for x in re.findall(r"-?\d+\.\d+(?:e-\d+)?", open(name).read())]
a, b = numbers("evaluation"), numbers("output")
assert len(a) == 4 and all(abs(x - y) <= 1e-5 * abs(x) for x, y in zip(a, b)), (a, b)
text = open("output").read()
loss, tokens = re.search(r"([\d.]+) nats per token, (\d+) tokens", text).groups()
bits, size = re.search(r"bits per byte  ([\d.]+), (\d+) bytes", text).groups()
assert abs(float(bits) - float(loss) * int(tokens) / math.log(2) / int(size)) < 1e-5, text
ids = open("val.npy", "rb").read()
ids = [int.from_bytes(ids[i:i + 4], "little") for i in range(0, len(ids), 4)]
labels = [ids[i] for i in range(len(ids) // 16 * 16) if i % 16 != 0]
assert int(tokens) == len(labels) and int(size) == sum(id < 256 for id in labels), text'

run soup --out soup1 whole whole whole
check "the mean of a model with itself" cmp soup1/model.safetensors whole/step-00000020/model.safetensors
run soup --out soup2 whole further
check "the mean of two models" python 'import array, json, struct
def tensors(path):
    data = open(path + "/model.safetensors", "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    for name, t in sorted(json.loads(data[8:8 + n]).items()):
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            yield from array.array("f", data[8 + n + begin:8 + n + end])
count = 0
for a, b, mean in zip(*map(tensors, ("whole/step-00000020", "further/step-00000002", "soup2"))):
    assert mean == struct.unpack("<f", struct.pack("<f", (a + b) / 2))[0]
    count += a != b
assert count > 1000'
run generate --load soup2 --max-tokens 3
refuse "soup1: exists" soup --out soup1 whole whole
refuse "their config.json differ" soup --out new whole preset
refuse "nothing" soup --out new whole nothing

last=whole/step-00000020
for what in whole $last $last/config.json $last/model.safetensors 32B; do run inspect "$what"; done
says "32234279936"
cp -r whole spiky
python 'import json
norms = [1 + i % 2 for i in range(1100)] + [50]
losses = [5 + i % 2 for i in range(1100)] + [5]
with open("spiky/log.jsonl", "w") as file:
    for loss, norm in zip(losses, norms):
        line = {"type": "step", "loss": loss, "gradient_norm": norm, "skipped": norm == 50}
        print(json.dumps(line), file=file)'
run inspect spiky
says "1101 steps with a loss, 1 of them skipped"
says "loss 0.000000, gradient norm 0.000908"
says "0.000908 of all steps, 0.000908 of the last 10000"
refuse "at once are more than any machine can hold" inspect long.json --batch-size 1e6
refuse "--seq-len 17: expected 2 to 16" inspect config.json --seq-len 17
refuse "nothing" inspect nothing
refuse "train.npy" inspect train.npy

# ---------------------------------------------------------------------------------------------
# bad input: data

fresh=(train --config config.json --out new --steps 2 --batch-size 4)
refuse "nothing.npy: no such file" "${fresh[@]}" --data nothing.npy
refuse "nothing*: no such file" "${fresh[@]}" --data 'nothing*'
refuse "empty.npy: is empty" "${fresh[@]}" --data empty.npy
refuse "truncated.npy: 5 bytes" "${fresh[@]}" --data truncated.npy
refuse "int64.npy: NumPy array of dtype '<i8'" "${fresh[@]}" --data int64.npy
refuse "masked.npy.mask: a label mask of 199 bytes for 200 tokens" "${fresh[@]}" --data masked.npy
refuse "a.npy" "${fresh[@]}" --data train.npy --val-data nothing/a.npy
refuse "fewer than one sequence" train --config 1M --seq-len 99999 --data train.npy --out new --steps 2
refuse "fewer than one batch" train --config config.json --out new --steps 2 --data train.npy --batch-size 999
refuse "text.npy: token 0 has id" eval --load whole --data text.npy --seq-len 2
refuse "--seq-len 17" eval --load whole --data train.npy --seq-len 17
# An id that the vocabulary has not, in the data of a run: found when it is read, before anything is saved.
python 'import struct; open("high.npy", "wb").write(struct.pack("<64I", *([1] * 63 + [260])))'
"$program" "${fresh[@]}" --data high.npy >output 2>errors
if [ $? -eq 1 ] && grep -q "high.npy: token 63 has id 260, the vocabulary has 260 rows" errors &&
    [ "$(ls new)" = log.jsonl ]; then pass; else fail "an id above the vocabulary" "$(cat errors)"; fi
refuse "ended before its first checkpoint; remove new/log.jsonl" "${fresh[@]}" --data train.npy
rm -r new
refuse "high.npy: token 63 has id 260" "${fresh[@]}" --data train.npy --val-data val.npy high.npy
refuse "unlabelled.npy: no token of it is a label" "${fresh[@]}" --data train.npy --val-data unlabelled.npy
refuse "unlabelled.npy: no token of it is a label" eval --load whole --data unlabelled.npy
# If steps have been made by then, they are saved, and the run can be resumed once the file is corrected.
mending=(train --config config.json --steps 2 --batch-size 2 --seed 1 --data high.npy)
"$program" "${mending[@]}" --out mended >output 2>errors
equal "exit code" "$?" 1
check "the steps before are saved" grep -q "token 63 has id 260" errors
check "and that is said" grep -q "The run is saved up to step 1: correct the file" errors
check "with the flag" grep -q -- "--resume and --accept-changed-data" errors
python 'import struct; open("high.npy", "wb").write(struct.pack("<64I", *([1] * 63 + [259])))'
run train --resume mended --accept-changed-data
run "${mending[@]}" --out unbroken
same mended 2 unbroken

# ---------------------------------------------------------------------------------------------
# bad input: models and tokenizers

data=(--data train.npy --out new --steps 2 --batch-size 2)
refuse "did you mean 14M?" train --config 14m "${data[@]}"
refuse "Llama" train --config llama.json "${data[@]}"
refuse "OLMo 1" train --config olmo1.json "${data[@]}"
refuse "odd.json" train --config odd.json "${data[@]}"
refuse "half.json" train --config half.json "${data[@]}"
refuse "empty.txt" train --config empty.txt "${data[@]}"
refuse "larger.json: has ids up to 357" train --config config.json --tokenizer larger.json "${data[@]}"
refuse "wordpiece.json" train --config config.json --tokenizer wordpiece.json "${data[@]}"
refuse "--tokenizer" train --config config.json --sample-every 1 "${data[@]}"
refuse "--seq-len 17" train --config config.json --seq-len 17 "${data[@]}"
refuse "--micro-batch-size 3" train --config config.json --micro-batch-size 3 "${data[@]}"
refuse "--warmup-steps 3" train --config config.json --warmup-steps 3 "${data[@]}"
refuse "larger.json: has ids up to 357" eval --load whole --data val.npy --tokenizer larger.json
refuse "nothing: no such directory" generate --load nothing
refuse "--tokenizer" generate --load preset
refuse "--prompt" generate --load whole --prompt "more than the sixteen tokens of the model"
refuse "holds another run" "${new[@]}" --out whole --steps 5
refuse "--load" train --load whole --config config.json "${data[@]}"
refuse "optimizer.safetensors" train --load soup1 --load-optimizer "${data[@]}"

# damage WORDS CHANGE: a copy of a model, changed by Python code, is refused by every command that loads it.
damage() {
    rm -rf damaged
    cp -r whole/step-00000020 damaged
    rm -rf damaged/trainer
    python "import json, struct
from pathlib import Path
model = Path('damaged/model.safetensors')
data = model.read_bytes()
size = struct.unpack('<Q', data[:8])[0]
header, body = json.loads(data[8:8 + size]), data[8 + size:]
def write():
    text = json.dumps(header).encode()
    model.write_bytes(struct.pack('<Q', len(text)) + text + body)
config = Path('damaged/config.json')
def set_config(**values):
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
norm = header['model.norm.weight']
$2"
    refuse "$1" generate --load damaged --max-tokens 2
    refuse "$1" eval --load damaged --data val.npy
    refuse "$1" train --load damaged "${data[@]}"
    refuse "$1" soup --out new damaged damaged
}
damage "damaged" "config.unlink()"
damage "config.json" "config.write_text('')"
damage "Llama" "set_config(model_type='llama')"
damage "intermediate_size 24" "set_config(intermediate_size=24)"
damage "(3 layers)" "set_config(num_hidden_layers=3)"
damage "(1 layers)" "set_config(num_hidden_layers=1)"
damage "model.safetensors" "model.unlink()"
damage "model.safetensors" "model.write_bytes(b'')"
damage "model.safetensors" "model.write_bytes(data[:-100])"
damage "model.safetensors" "model.write_bytes(b'\xff' * 100)"
damage "model.norm.weight" "norm['data_offsets'][1] += 4; write()"
damage "model.norm.weight" "norm['data_offsets'] = [10**15, 10**15 + 32]; write()"
damage "model.norm.weight" "norm['shape'] = [2**62, 8]; write()"
damage "model.norm.weight" "norm['dtype'] = 'I64'; norm['shape'] = [4]; write()"
damage "belongs to no tensor" "del header['model.norm.weight']; write()"
damage "has no tensor" "last = max((t['data_offsets'], name) for name, t in header.items() if name[0] != '_')
del header[last[1]]; body = body[:last[0][0]]; write()"
damage "input_layernorm" "header['model.layers.0.input_layernorm.weight'] = header.pop('model.norm.weight')
write()"

# Weights that are NaN: with --skip-step no step updates them, without it the run ends with an error.
rm -rf damaged
cp -r whole/step-00000020 damaged
python 'from pathlib import Path
model = Path("damaged/model.safetensors")
model.write_bytes(model.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")'
run train --load damaged --data train.npy --out skips --steps 3 --batch-size 8 --skip-step on
equal "updates that were skipped" "$(value skips skipped) $(value skips loss)" "True True True None None None"
says " skip"
check "the weights stay" cmp damaged/model.safetensors skips/step-00000003/model.safetensors
"$program" train --load damaged --data train.npy --out stops --steps 3 --batch-size 8 \
    >output 2>errors
equal "a loss of nan" "$? $(grep -c "error: step 1: the loss is nan" errors)" "1 1"

# ---------------------------------------------------------------------------------------------
# bad input: runs

refuse "nothing: cannot be opened" train --resume nothing
mkdir hollow
refuse "holds no checkpoint" train --resume hollow
refuse "--lr: cannot be given with --resume" train --resume whole --lr 1e-3
python 'import fcntl, os, sys
fcntl.flock(os.open("whole", os.O_RDONLY), fcntl.LOCK_EX)
os.set_inheritable(3, True)
sys.exit(os.spawnv(os.P_WAIT, sys.argv[1], [sys.argv[1], "train", "--resume", "whole"]))' "$program" 2>errors
check "a run that another process trains" grep -q "whole: another process is training this run" errors
python 'import fcntl, os, sys
fcntl.flock(os.open("hollow", os.O_RDONLY), fcntl.LOCK_EX)
sys.exit(os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:]))' \
    "$program" "${new[@]}" --out hollow --steps 1 2>errors
check "a run that another process begins" grep -q "hollow: another process is training this run" errors
cp -r odd moved
python 'import json
from pathlib import Path
for state in Path("moved").glob("step-*/trainer/state.json"):
    value = json.loads(state.read_text())
    value["settings"]["data"] = ["a.npy"]
    state.write_text(json.dumps(value))'
refuse "a.npy: file 1 of 1, then train.npy, has 29784 bytes, was saved with 29680" train --resume moved
python 'from pathlib import Path
for state in Path("moved").glob("step-*/trainer/state.json"): state.write_text("{}")'
refuse "settings" train --resume moved
# A damaged newest checkpoint is passed over, with a warning, and replaced.
cp -r whole torn
head -c 1000 whole/step-00000020/model.safetensors >torn/step-00000020/model.safetensors
run train --resume torn
check "the warning names it" grep -q "warning: .*step-00000020" errors
same torn 20

# ---------------------------------------------------------------------------------------------
# no memory, no disk

refuse "out of memory: the model and its buffers need" \
    train --config huge.json --data train.npy --out new --steps 1 --batch-size 1
(
    ulimit -v 4000000
    exec "$program" train --config 7B --vocab-size 260 --seq-len 16 --data train.npy --out new --steps 1 \
        --batch-size 1
) >output 2>errors
if [ $? -eq 1 ] && grep -q "out of memory: .* need" errors && [ ! -e new ]; then pass; else
    fail "a machine of 4 GB" "$(cat errors)"
fi

# A save that fails: the message says so, the earlier checkpoints are whole, and the run resumes from there.
save_fails() {  # RUN: after a failed save at step 10
    if [ "$code" -eq 1 ] && grep -q "step-00000010 was not saved" errors; then pass; else
        fail "$1: exit code $code, expected a failed save" "$(cat errors)"
    fi
    equal "$1: the checkpoints" "$(cd "$1" && echo step-*)" "step-00000005"
}
mkdir -p disk
if unshare --user --map-root-user --mount true 2>/dev/null; then
    unshare --user --map-root-user --mount bash -c '
        mount -t tmpfs -o size=150k none disk || exit 99
        "$0" "$@" --out disk/full
        code=$?
        cp -r disk/full small
        exit $code' "$program" "${new[@]}" --steps 20 --save-every 5 --keep 0 >output 2>errors
    code=$?
    if [ $code -eq 99 ]; then echo "skipped: a full disk (no tmpfs can be mounted)"; else save_fails small; fi
else
    echo "skipped: a full disk (no mount namespace can be made)"
fi
# The same from a limit on the size of files: the model fits, its optimizer does not.
run "${new[@]}" --out limited --steps 20 --save-every 5 --keep 0 --stop-at 5
(
    trap '' XFSZ
    ulimit -f 24
    exec "$program" train --resume limited
) >output 2>errors
code=$?
save_fails limited
run train --resume limited
run "${new[@]}" --out unlimited --steps 20 --save-every 0
same limited 20 unlimited

finish
