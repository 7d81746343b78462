#!/usr/bin/env bash
# test_cuda_cli.sh [FP32 [BF16 [CPU]]]: tests train_olmo2cu in both precisions, next to train_olmo2. A run may
# move from one program to another. Recomputing and resuming change no bit. generate, eval, soup and inspect
# print what the CPU program prints. Plans need no device. What cannot run is refused with a message. The
# programs are built by dev/cuda_on_cpu, so no GPU is needed. Needs bash and Python 3.
fp32=${1:-build/cuda_on_cpu/plain/train_olmo2_fp32} bf16=${2:-build/cuda_on_cpu/plain/train_olmo2}
cpu=${3:-./train_olmo2}
set -- "$cpu"
. "$(dirname "$0")/cli.sh"
cpu=$program
case $fp32 in /*) ;; *) fp32=$project/$fp32 ;; esac
case $bf16 in /*) ;; *) bf16=$project/$bf16 ;; esac
for program in "$fp32" "$bf16" "$cpu"; do
    [ -x "$program" ] || { echo "error: there is no program $program" && exit 1; }
done

# Each command line here begins with its program, and before it may set environment variables.
start_program() { env "$@"; }

# ---------------------------------------------------------------------------------------------
# a tiny model, with a head of 64 for the tensor cores in bf16; tokens

python3 - <<'END'
import json, random, struct

config = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_size": 64,
          "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 96,
          "vocab_size": 264, "max_position_embeddings": 12, "rms_norm_eps": 1e-6, "rope_theta": 500000,
          "eos_token_id": 256, "pad_token_id": 257}
for name, value in (("config.json", config),
                    ("wide.json", {**config, "hidden_size": 512, "num_attention_heads": 1}),
                    ("uneven.json", {**config, "hidden_size": 20, "num_attention_heads": 2,
                                     "intermediate_size": 21})):
    with open(name, "w") as file:
        json.dump(value, file)

random.seed(1)
words = "the cat sat on a mat and ran to see who saw it".split()
def tokens(name, n):
    text = " ".join(random.choices(words, k=n)).encode()[:n]
    with open(name, "wb") as file:
        file.write(struct.pack(f"<{n}I", *text))
tokens("train.npy", 600)
tokens("val.npy", 36)
END

steps=(train --config config.json --tokenizer tokenizer.json --data train.npy --batch-size 3 --steps 4
    --lr 2e-3 --warmup-steps 1)
last=step-00000004

same() {  # RUN OTHER: weights and optimizer at the end have the same bits
    local file
    for file in model.safetensors trainer/optimizer.safetensors; do
        check "$1 and $2: $file" cmp "$1/$last/$file" "$2/$last/$file"
    done
}

# agree RUN OTHER TOLERANCE: the logs have the steps 1 to 4, and their losses agree, relatively.
agree() {
    check "$1 and $2" python 'import json, sys
def steps(run):
    return [line for line in map(json.loads, open(run + "/log.jsonl")) if line["type"] == "step"]
a, b, allowed = steps(sys.argv[1]), steps(sys.argv[2]), float(sys.argv[3])
assert [s["step"] for s in a] == [s["step"] for s in b] == [1, 2, 3, 4], (a, b)
assert all(x["tokens"] == y["tokens"] and x["lr"] == y["lr"] for x, y in zip(a, b))
def worst(key):
    return sorted(abs(x[key] - y[key]) / abs(y[key]) for x, y in zip(a, b))[-1]
loss, norm = worst("loss"), worst("gradient_norm")
print(f"loss {loss:.1e} of {allowed:.0e}, gradient norm {norm:.1e} of {30 * allowed:.0e}")
assert loss <= allowed and norm <= 30 * allowed and b[3]["loss"] <= b[0]["loss"] - 0.1, (a, b)' "$@"
}

# ---------------------------------------------------------------------------------------------
# four steps in each program, and a run that goes from one to the other after two

whole=("${steps[@]}" --val-data val.npy --sample-every 4 --sample-tokens 5)
run "$cpu" "${whole[@]}" --out cpu
run "$fp32" "${whole[@]}" --out fp32
says "CUDA, fp32, "
says "fp32: complete, 4 steps"
says "validation at step 4: loss"
says "sample at step 4"
run "$bf16" "${steps[@]}" --out bf16
says "CUDA, bf16, "
# fp32: sums in another order. bf16: every output of a layer is rounded by up to 2^-9 = 2e-3, in all directions.
agree fp32 cpu 1e-5
agree bf16 cpu 5e-3
check "validation and sample" python 'import json
def lines(run, kind):
    return [line for line in map(json.loads, open(run + "/log.jsonl")) if line["type"] == kind]
(a,), (b,) = lines("fp32", "eval"), lines("cpu", "eval")
assert abs(a["loss"] - b["loss"]) <= 1e-5 * b["loss"] and a["step"] == b["step"] == 4, (a, b)
(a,), (b,) = lines("fp32", "sample"), lines("cpu", "sample")
assert a["text"] == b["text"], (a, b)'

# crossing NAME FIRST SECOND [FLAGS...]: two steps with one program, two with the other.
crossing() {
    run "$2" "${steps[@]}" "${@:4}" --out "$1" --stop-at 2
    says "stopped at step 2 of 4"
    run "$3" train --resume "$1"
    says "$1: complete, 4 steps"
    check "$1: where its end is" python 'import json, sys
a, b = (json.load(open(f"{run}/step-00000004/trainer/state.json")) for run in (sys.argv[1], "cpu"))
for key in ("step", "updates", "loader"):
    assert a[key] == b[key], (a, b)' "$1"
}
crossing cpu_fp32 "$cpu" "$fp32"
agree cpu_fp32 cpu 1e-5
crossing fp32_cpu "$fp32" "$cpu"
agree fp32_cpu cpu 1e-5
crossing cpu_bf16 "$cpu" "$bf16"
agree cpu_bf16 cpu 5e-3
crossing bf16_cpu "$bf16" "$cpu"
agree bf16_cpu cpu 5e-3

# ---------------------------------------------------------------------------------------------
# the same bits: resumed, repeated, recomputed, and with stochastic rounding

crossing bf16_bf16 "$bf16" "$bf16"
same bf16_bf16 bf16
coarse=(--master-weights off --moments bf16)
run "$bf16" "${steps[@]}" "${coarse[@]}" --out coarse
crossing coarse_coarse "$bf16" "$bf16" "${coarse[@]}"
same coarse_coarse coarse
agree coarse cpu 1e-2
check "coarse weights are bf16 numbers" python 'import json, struct
data = open("coarse/step-00000004/model.safetensors", "rb").read()
n = struct.unpack("<Q", data[:8])[0]
assert not any(data[8 + n::4]) and not any(data[9 + n::4]) and any(data[10 + n::4])'
for level in none block; do
    run "$bf16" "${steps[@]}" --recompute $level --out "bf16_$level"
    same "bf16_$level" bf16
done
run "$fp32" "${steps[@]}" --recompute block --out fp32_block
same fp32_block fp32
run "$fp32" train --resume fp32_block --recompute elementwise
says "fp32_block: complete, 4 steps"
# A batch in two parts, the second smaller.
run "$fp32" "${steps[@]}" --micro-batch-size 2 --out parts
agree parts cpu 1e-5

# ---------------------------------------------------------------------------------------------
# using a model

greedy=(--prompt "the c" --max-tokens 6 --temperature 0)
for model in cpu fp32 bf16; do
    run "$cpu" generate --load $model "${greedy[@]}"
    cp output "greedy_$model"
    run "$fp32" generate --load $model "${greedy[@]}"
    check "greedy text of the model $model" cmp output "greedy_$model"
done
run "$bf16" generate --load bf16 --max-tokens 6 --seed 7
cp output drawn
run "$bf16" generate --load bf16 --max-tokens 6 --seed 7
check "the same seed draws the same" cmp output drawn

# Many texts at a time, and one after another: on the emulated GPU, the sums of a product do not depend on
# what is beside them.
printf '{"prompt": "%s"}\n' "the c" "a" "who saw" >prompts.jsonl
for slots in 5 1; do
    for program in cpu fp32 bf16; do
        run "${!program}" generate --load fp32 --prompts prompts.jsonl --samples 2 --max-tokens 5 --seed 3 \
            --slots $slots --out texts_${program}_$slots.jsonl
    done
done
check "texts of fp32 and the CPU" cmp texts_fp32_5.jsonl texts_cpu_5.jsonl
for program in fp32 bf16; do
    check "$program: one text at a time" cmp texts_${program}_5.jsonl texts_${program}_1.jsonl
done

cp -r fp32/$last long
sed -i 's/"max_position_embeddings": *12/"max_position_embeddings": 64/' long/config.json
for program in cpu fp32 bf16; do
    run "${!program}" chat --load long --prompt "the c" --max-tokens 4 --temperature 0
    cp output chat_$program
done
check "answers of fp32 and the CPU" cmp chat_fp32 chat_cpu

python3 - <<'END'
import json
with open("requests.jsonl", "w") as file:
    for document, context in enumerate(("the c", "the s", "a ")):
        for i, continuation in enumerate((" cat", " ran to", "t")):
            row = {"request_type": "loglikelihood", "doc": {}, "task_name": "piqa", "doc_id": document,
                   "native_id": str(document), "idx": i, "label": 0,
                   "request": {"context": context, "continuation": continuation}}
            file.write(json.dumps(row) + "\n")
END
for program in cpu fp32 bf16; do
    run "${!program}" eval --load fp32 --requests requests.jsonl --out scores_$program.jsonl
done
check "scores beside the CPU's" python 'import json
def scores(program):
    header, *documents = map(json.loads, open(f"scores_{program}.jsonl"))
    return [x for document in documents for x in document["logprobs"]]
def worst(program):
    a, b = scores(program), scores("cpu")
    assert len(a) == len(b) == 9
    return max(abs(x / y - 1) for x, y in zip(a, b))
fp32, bf16 = worst("fp32"), worst("bf16")
print(f"fp32 {fp32:.1e} of 1e-05, bf16 {bf16:.1e} of 5e-03")
assert fp32 <= 1e-5 and bf16 <= 5e-3'

for program in "$cpu" "$fp32" "$bf16"; do
    run "$program" eval --load fp32 --data val.npy --batch-size 2
    says "3 sequences of 12 tokens"
    grep -o 'cross-entropy  [0-9.]*' output | cut -d' ' -f3
done >evals
check "eval beside the CPU's" python 'cpu, fp32, bf16 = map(float, open("evals").read().split())
print(f"fp32 {abs(fp32 / cpu - 1):.1e} of 1e-05, bf16 {abs(bf16 / cpu - 1):.1e} of 5e-03")
assert abs(fp32 / cpu - 1) <= 1e-5 and abs(bf16 / cpu - 1) <= 5e-3'

run "$cpu" soup --out soup cpu fp32
for program in fp32 bf16; do
    run "${!program}" soup --out "itself_$program" cpu cpu
    check "$program: the mean of a model with itself" \
        cmp "itself_$program/model.safetensors" cpu/$last/model.safetensors
    run "${!program}" soup --out "soup_$program" cpu fp32
    check "$program: the mean of two models" cmp "soup_$program/model.safetensors" soup/model.safetensors
done

run "$cpu" inspect cpu/$last
grep -v -e sequences -e generate -e ' memory\|: weights\|gradients\|workspace\|cache' output >inspected
run "$fp32" inspect cpu/$last
grep -v -e sequences -e generate -e ' memory\|: weights\|gradients\|workspace\|cache' output >expected
check "inspect" cmp inspected expected

# ---------------------------------------------------------------------------------------------
# plans: exact figures, without a device

export CUDA_ON_CPU_DEVICES=0
run "$bf16" inspect 32B
says "32234279936"
plan=(train --config 1B --dry-run --seq-len 4096)
run "$bf16" "${plan[@]}" --memory 24G --master-weights off
says "CUDA, bf16, no device found"
says "step           512 sequences"
says "available      24.00 GB"
says "largest        1 sequence at once"
check "12 bytes a parameter and what a sequence takes" python 'import re
text = open("output").read()
gb = float(re.search(r"--micro-batch-size 1 takes ([\d.]+) GB", text).group(1))
assert 12 * 1.4849 <= gb <= 22.6, gb'
run "$bf16" "${plan[@]}" --memory 80G --recompute block
check "the largest micro-batch" python 'import re
text = open("output").read()
n, gb = re.search(r"largest +(\d+) sequences at once: --micro-batch-size \1 takes ([\d.]+) GB", text).groups()
assert 70 <= float(gb) <= 80, text
open("largest", "w").write(n)'
run "$bf16" "${plan[@]}" --memory 80G --recompute block --micro-batch-size $(($(cat largest) + 1))
check "one more is too much" python 'import re
assert float(re.search(r"memory +([\d.]+) GB", open("output").read()).group(1)) > 80'
run "$bf16" "${plan[@]}" --memory 80Gi --micro-batch-size 3
says "in 171 micro-batches"
says "available      85.90 GB"
refuse "one sequence of 4096 tokens needs" "$bf16" "${plan[@]}" --memory 24G
for flag in --seq-len "--recompute block" "--master-weights off" "--moments bf16"; do
    refuse "$flag" "$bf16" "${plan[@]}" --memory 24G
done
refuse "PRECISION=fp32" "$fp32" "${plan[@]}" --master-weights off
unset CUDA_ON_CPU_DEVICES
# The run prints the plan of its dry run.
run "$bf16" "${steps[@]}" --out printed --dry-run
sed '/^$/d' output >planned
run "$bf16" "${steps[@]}" --out printed --stop-at 1
sed '/^$/,$d' output >printed_plan
check "the plan of a run" cmp planned printed_plan

# ---------------------------------------------------------------------------------------------
# what is refused

new=("${steps[@]}" --out new)
for command in "${new[*]}" "train --resume printed" "eval --load fp32 --data val.npy" \
    "generate --load fp32 --prompt a"; do
    for program in "$fp32" "$bf16"; do
        # shellcheck disable=SC2086
        refuse "no CUDA device" CUDA_ON_CPU_DEVICES=0 "$program" $command
        # shellcheck disable=SC2086
        refuse "sm_75: the kernels need sm_80" CUDA_ON_CPU_CAPABILITY=75 "$program" $command
        # shellcheck disable=SC2086
        refuse "out of memory: the model and its buffers need" CUDA_ON_CPU_MEMORY=1000000 "$program" $command
    done
done
refuse "train_olmo2 is the same program for the CPU" CUDA_ON_CPU_DEVICES=0 "$bf16" "${new[@]}"
for words in "has 1.00 MB free of 1.00 MB" --micro-batch-size --seq-len "--recompute block" \
    "--master-weights off" "--moments bf16"; do
    refuse "$words" CUDA_ON_CPU_MEMORY=1000000 "$bf16" "${new[@]}"
done
data=(--data train.npy --batch-size 3 --steps 4 --out new)
refuse "head_dim 512: the CUDA attention has room for at most 256" \
    "$bf16" train --config wide.json "${data[@]}"
refuse "must be multiples of 16" "$bf16" train --config uneven.json "${data[@]}"
refuse "PRECISION=fp32" "$fp32" "${new[@]}" --master-weights off
refuse "--profile: this is the CUDA program" "$bf16" "${new[@]}" --profile
refuse "--dtype bf16: this is the CUDA program" "$bf16" "${new[@]}" --dtype bf16
refuse "--profile: this is the CUDA program" "$fp32" train --resume printed --profile
run "$fp32" "${new[@]}" --moments bf16 --stop-at 1
rm -r new

# The CPU program computes in one way only, and says which flag it cannot follow.
refuse "--master-weights off: this is the CPU program" "$cpu" "${new[@]}" --master-weights off
refuse "--moments bf16: this is the CPU program" "$cpu" "${new[@]}" --moments bf16
refuse "--recompute: this is the CPU program" "$cpu" "${new[@]}" --recompute block
refuse "--recompute: this is the CPU program" "$cpu" "${new[@]}" --recompute none
refuse "--master-weights off: this is the CPU program" "$cpu" train --resume coarse
refuse "--recompute: this is the CPU program" "$cpu" train --resume bf16_block
run "$cpu" train --resume bf16_block --recompute elementwise
# The form of a run may change when it is resumed.
cp -r printed reformed
run "$bf16" train --resume reformed --moments bf16 --master-weights off
says "--moments: AdamW's moments are converted"
says "--master-weights: weights are rounded differently"
says "reformed: complete, 4 steps"
refuse "--moments bf16: this is the CPU program" "$cpu" train --resume printed --moments bf16
refuse "--master-weights off: this is the CPU program" "$cpu" "${plan[@]}" --master-weights off
refuse "--recompute: this is the CPU program" "$cpu" "${plan[@]}" --recompute block

run "$cpu" "${plan[@]}" --memory 64G
says "CPU, fp32, 1 thread"
says "available      64.00 GB"
refuse "--memory: is empty, expected BYTES" "$cpu" "${plan[@]}" --memory ""
for bytes in garbage 24Q 24GB 24Gib 24G5 -24G 0 nan inf 1e30; do
    refuse "--memory $bytes: expected a number of bytes, such as 24G or 24Gi" \
        "$cpu" "${plan[@]}" --memory "$bytes"
done
for bytes in 64e9 64000M 60Gi 64000000000 0.064T 64.0G; do
    run "$cpu" "${plan[@]}" --memory $bytes
    says "available      64."
done
refuse "--memory: needs --dry-run" "$cpu" "${new[@]}" --memory 24G
refuse "train: expected one of --config (a new model), --load" "$cpu" train --dry-run --memory 24G
refuse "expected one of --config" "$cpu" train --dry-run --config 1B --load cpu
refuse "--dry-run: cannot be given with --resume" "$cpu" train --resume cpu --dry-run
refuse "--seq-len 13: expected 2 to 12" "$cpu" train --config config.json --dry-run --seq-len 13
refuse "did you mean 14M?" "$cpu" train --config 14m --dry-run
refuse "--memory 1M: one sequence of 12 tokens needs" "$cpu" train --load cpu --dry-run --memory 1M
run "$cpu" train --load cpu --dry-run --memory 1G
says "largest"

finish
