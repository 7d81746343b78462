#!/usr/bin/env bash
# test_cli_run.sh [PROGRAM]: how a run lives with people: signals and pipes, runs that diverge, runs that
# move, what its plan records, output that cannot be written.
. "$(dirname "$0")/cli.sh"
make_tokens

wait_for() {  # COMMAND...: until it succeeds; a minute at most, for machines that are slow or busy
    for _ in $(seq 3000); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.02
    done
    fail "waited in vain for: $*"
    return 1
}

# ---------------------------------------------------------------------------------------------
# the plan is complete, and is what the log and every checkpoint record

run "${new[@]}" --out whole --steps 20 --save-every 5 --val-data val.npy --eval-every 10
says "instance filter on, skip-step off"
check "no setting is null" python 'import json
run = json.loads(open("whole/log.jsonl").readline())
state = json.load(open("whole/step-00000020/trainer/state.json"))
for settings in (run["settings"], state["settings"]):
    assert None not in settings.values() and settings["lr"] == 4e-4 and settings["steps"] == 20, settings
    assert settings["micro-batch-size"] == 8 and settings["warmup-steps"] == 2, settings
    assert settings["final-lr-fraction"] == 0.1 and settings["seq-len"] == 16, settings
assert state["version"] == 2, state'
cp output printed
for micro in "" "--micro-batch-size 3"; do
    run "${new[@]}" --out dry --steps 20 $micro
    grep -A 2 '^memory' output >printed
    rm -r dry
    run "${new[@]}" --out dry --steps 20 $micro --dry-run
    grep -A 2 '^memory' output >planned
    check "the dry run plans the memory that the run takes: $micro" cmp printed planned
    check "a dry run writes nothing" test ! -e dry
done
run train --config 32B --dry-run
says "instance filter off, skip-step on"
run train --config 13B --dry-run
says "instance filter on, skip-step off"
run train --config 13B --dry-run --skip-step on
says "instance filter on, skip-step on"
warmup() { python 'import json, sys; print(json.load(open(sys.argv[1]))["settings"]["warmup-steps"])' \
    "$1/step-00000020/trainer/state.json"; }
run train --load whole --data train.npy --batch-size 8 --steps 20 --out fresh
run train --load whole --load-optimizer --data train.npy --batch-size 8 --steps 20 --out midtrain
run train --load whole --load-optimizer --warmup-steps 3 --data train.npy --batch-size 8 --steps 20 --out warm
equal "warmup of a model that is trained further" "$(warmup fresh) $(warmup midtrain) $(warmup warm)" "2 0 3"

# What can be refused at once is refused before a model is made that no machine could hold.
refuse "holds another run" train --config huge.json --data train.npy --batch-size 1 --steps 1 --out whole

# ---------------------------------------------------------------------------------------------
# a run that is resumed elsewhere, with other settings, or from an old checkpoint

same() {  # RUN STEP: weights and optimizer have the bits of the undisturbed run
    local step
    step=step-$(printf %08d "$2")
    check "$1 at $2: weights" cmp "$1/$step/model.safetensors" "whole/$step/model.safetensors"
    check "$1 at $2: optimizer" \
        cmp "$1/$step/trainer/optimizer.safetensors" "whole/$step/trainer/optimizer.safetensors"
}

run "${new[@]}" --out half --steps 20 --save-every 5 --stop-at 10
cp -r half elsewhere_half
(mkdir -p "else[w]here" && cd "else[w]here" && "$program" train --resume ../elsewhere_half >../output 2>../errors)
equal "resumed from another directory: exit code" "$?" 0
same elsewhere_half 20
(cd "else[w]here" && cp ../train.npy . && cp ../tokenizer.json . && cp ../config.json . &&
    "$program" train --config config.json --tokenizer tokenizer.json --data 'tr*.npy' --batch-size 8 --out glob --steps 20 --stop-at 10 >../output 2>../errors)
equal "a pattern in a directory with brackets" "$?" 0
run train --resume "else[w]here/glob"
same "else[w]here/glob" 20

cp -r half moved
mkdir data
mv train.npy data/renamed.npy
refuse "train.npy" train --resume moved
run train --resume moved --data data/renamed.npy
says "--data: the run reads these files from here on"
check "the log says what has changed" grep -q '"type": "resume", "step": 10, "changed": "--data' moved/log.jsonl
same moved 20
cp data/renamed.npy train.npy

run "${new[@]}" --out threaded --steps 20 --threads 2 --stop-at 2
run train --resume threaded --stop-at 3
says "2 threads"
run train --resume threaded --threads 1 --stop-at 4
says "1 thread"

cp -r half longer
run train --resume longer --steps 30
says "--steps: the learning rate follows the schedule"
says "longer: complete, 30 steps"
run train --resume longer
says "longer: complete, 30 steps"
refuse "--steps 5: the run has made 30 steps" train --resume longer --steps 5
# No step is made, and what was given anew is kept all the same.
cp -r half still_half
run train --resume still_half --stop-at 10 --val-data val.npy --steps 30
equal "no step was made" "$(ls still_half)" "$(ls half)"
run train --resume still_half --stop-at 10 --keep 7
check "also one that changes no result" grep -q '"keep": 7' still_half/step-00000010/trainer/state.json
mv val.npy kept.npy
refuse "val.npy: no such file" train --resume still_half
mv kept.npy val.npy
run train --resume still_half --stop-at 11
says "stopped at step 11 of 30"
cp -r half still_changed
head -c 10000 train.npy >fewer.npy
run train --resume still_changed --stop-at 10 --data fewer.npy --accept-changed-data
run train --resume still_changed --stop-at 11
refuse "--stop-at 9: the run has made 11 steps" train --resume still_changed --stop-at 9
refuse "--eval-every: needs --val-data" train --resume half --eval-every 2
refuse "--sample-prompt: needs --sample-every" train --resume half --sample-prompt a
refuse "give the run, the directory above it" train --resume half/step-00000010
python 'import json
path = "still_half/step-00000011/trainer/state.json"
state = json.load(open(path))
for key, value, name in ("data", [], "no_data"), ("steps", None, "no_length"), ("lr", [], "no_list"):
    json.dump({**state, "settings": {**state["settings"], key: value}}, open(name, "w"))'
cp no_data still_half/step-00000011/trainer/state.json
refuse "\"data\" lists no file, expected the token files of the run; give them with --data" train --resume still_half
cp no_list still_half/step-00000011/trainer/state.json
refuse "state.json: --lr: found a list, expected one value" train --resume still_half
cp no_length still_half/step-00000011/trainer/state.json
refuse "\"steps\" is missing, expected the length of the run; give it with --steps" train --resume still_half
run train --resume still_half --steps 12
says "still_half: complete, 12 steps"

# A new run in the directory of a model would be taken for that model.
cp -r half/step-00000010 model
refuse "--out model: holds a config.json" "${new[@]}" --steps 1 --out model

cp -r half copied
cp -r copied/step-00000010 copied/step-00000015
refuse '"step" is 10, its directory says 15' train --resume copied

run "${new[@]}" --out warming --steps 20 --warmup-steps 15 --stop-at 2
refuse "--steps 9: the run was planned with 15 steps of warmup" train --resume warming --steps 9
cp -r half micro
run train --resume micro --micro-batch-size 3 --val-data val.npy
says "--micro-batch-size: gradients add up in another order"
check "the last losses are close" python 'import json
def last(run): return json.loads(open(run + "/log.jsonl").read().splitlines()[-2])["loss"]
a, b = (json.loads([l for l in open(run + "/log.jsonl") if "\"step\": 20, \"tokens\"" in l][0])["loss"]
        for run in ("whole", "micro"))
assert abs(a - b) <= 2e-5 * a, (a, b)'

# Data that have changed under the run.
cp -r half changed
python 'data = bytearray(open("train.npy", "rb").read()); data[0] ^= 1; open("train.npy", "wb").write(data)'
refuse "train.npy" train --resume changed
grep -q -- "--accept-changed-data" errors && pass || fail "the error names the flag" "$(cat errors)"
run train --resume changed --accept-changed-data
cp data/renamed.npy train.npy
mkdir shards
python 'data = open("train.npy", "rb").read()
open("shards/a.npy", "wb").write(data[:8000]); open("shards/b.npy", "wb").write(data[8000:16000])'
run train --config config.json --data 'shards/*.npy' --batch-size 8 --steps 20 --stop-at 10 --out sharded
mv shards/a.npy shards/z.npy
refuse "shards" train --resume sharded
run train --resume sharded --accept-changed-data

# A state.json as version 1 wrote it resumes to the same bits.
cp -r half old
python 'import json
path = "old/step-00000010/trainer/state.json"
state = json.load(open(path))
for key in ("version", "nonfinite", "finite_checkpoint", "labelled", "data"): del state[key]
settings = state["settings"]
for key in ("load", "vocab-size", "seq-len", "micro-batch-size", "tokens", "epochs", "lr", "warmup-steps",
            "decay-steps", "final-lr-fraction", "sample-prompt"): settings[key] = None
settings.update({"data": ["train.npy"], "tokenizer": "tokenizer.json", "skip-step": True})
json.dump(state, open(path, "w"))'
run train --resume old
same old 20
# One that had loaded an optimizer keeps the warmup of its time.
python 'import json, shutil
shutil.copytree("midtrain", "oldtrain")
path = "oldtrain/step-00000020/trainer/state.json"
state = json.load(open(path))
for key in ("version", "nonfinite", "finite_checkpoint", "labelled", "data"): del state[key]
state["settings"]["warmup-steps"] = None
json.dump(state, open(path, "w"))'
run train --resume oldtrain
says "after 2 steps of warmup"

# A newer program's.
cp -r half newer
python 'import json
path = "newer/step-00000010/trainer/state.json"
state = json.load(open(path)); state["version"] = 3; json.dump(state, open(path, "w"))'
refuse "has version 3, this program reads up to 2" train --resume newer
python 'import json
path = "newer/step-00000010/trainer/state.json"
state = json.load(open(path)); state["version"] = 2; state["settings"].update(rope="x", mtp=1)
json.dump(state, open(path, "w"))'
refuse 'does not know: "rope", "mtp"' train --resume newer

# ---------------------------------------------------------------------------------------------
# runs that diverge

diverging=("${new[@]}" --lr 1 --clip 0 --weight-decay 10 --warmup-steps 0 --steps 300 --save-every 2 --keep 2)
"$program" "${diverging[@]}" --skip-step on --out diverged >output 2>errors
equal "a run that diverges, steps skipped: exit code" "$?" 1
check "it says why" grep -q "and so it was in 10 steps in a row" errors
check "no sign before a nan" bash -c '! grep -q -e -nan output errors'
good=$(sed -n 's/.*The newest checkpoint known to be good is step \([0-9]*\).*/\1/p' errors)
check "the last finite checkpoint is kept" test -d "diverged/step-$(printf %08d "${good:-999}")"
check "it is finite" "$program" generate --load "diverged/step-$(printf %08d "${good:-999}")" --max-tokens 3
"$program" "${diverging[@]}" --out ended >output 2>errors
equal "a run that diverges, no step skipped: exit code" "$?" 1
check "it is saved" grep -q "The run is saved up to step" errors
"$program" train --resume ended >output 2>errors
equal "it diverges again: exit code" "$?" 1
python 'import struct
open("damaged.npy", "wb").write(struct.pack("<64I", *range(64)))'
cp -r whole/step-00000020 nan
rm -r nan/trainer
python 'from pathlib import Path
import json, struct
model = Path("nan/model.safetensors")
data = bytearray(model.read_bytes())
size = struct.unpack("<Q", data[:8])[0]
at = 8 + size + json.loads(data[8:8 + size])["model.norm.weight"]["data_offsets"][0]
data[at:at + 4] = b"\x00\x00\xc0\x7f"
model.write_bytes(data)'
"$program" generate --load nan --max-tokens 3 >output 2>errors
equal "logits that are not finite: exit code" "$?" 1
check "logits that are not finite" grep -q "is nan: its weights are damaged" errors
refuse "nan: its cross-entropy is nan: its weights are damaged" eval --load nan --data val.npy
refuse 'number 0 of tensor "model.norm.weight" is nan' soup --out souped whole nan

# ---------------------------------------------------------------------------------------------
# steps without a label

python 'import struct
ids = [i % 250 for i in range(640)]
open("half.npy", "wb").write(struct.pack("<640I", *ids))
open("half.npy.mask", "wb").write(bytes([0] * 320 + [1] * 320))
open("none.npy", "wb").write(struct.pack("<640I", *ids))
open("none.npy.mask", "wb").write(bytes(640))'
unlabelled=(train --config config.json --batch-size 20 --epochs 1 --instance-filter off)
"$program" "${unlabelled[@]}" --data none.npy --out unlabelled >output 2>errors
equal "a run without a label: exit code" "$?" 1
check "a run without a label" grep -q "no step of the run had a label" errors
run "${unlabelled[@]}" --data half.npy none.npy --out labelled
run train --config config.json --batch-size 1 --epochs 1 --data none.npy --instance-filter off --stop-at 2 --out still
check "a step without a label changes no weight" python 'import json
state = json.load(open("still/step-00000002/trainer/state.json"))
assert state["updates"] == 0 and state["labelled"] is False, state'

# ---------------------------------------------------------------------------------------------
# signals and pipes

endless=("${new[@]}" --steps 300000 --save-every 0)

# The tee of `train | tee` dies by the same Ctrl-C, and the terminal may close: the run is saved all the same.
check "20 of 20 runs in a terminal end saved and resume" python '
import glob, json, os, pty, random, select, signal, subprocess, sys, time
program, arguments = sys.argv[1], sys.argv[2:]
for i in range(20):
    out = f"tty{i}"
    command = " ".join(map(repr, [program, *arguments, "--out", out])) + f" | tee {out}.log"
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if the tests were started by nohup
        os.execvp("bash", ["bash", "-c", command])
    seen = 0
    while seen < 3:  # until some steps are logged
        if select.select([fd], [], [], 0.05)[0]:
            os.read(fd, 65536)
        if os.path.exists(out + "/log.jsonl"):
            seen = open(out + "/log.jsonl").read().count("\"type\": \"step\"")
    if i % 2 == 0:
        os.write(fd, b"\x03")  # Ctrl-C, to the whole foreground group
    else:
        os.close(fd)  # the terminal closes
    deadline = time.time() + 60
    while i % 2 == 0 and time.time() < deadline:
        try:
            if not os.read(fd, 65536): break
        except OSError:
            break
    if i % 2 == 0: os.close(fd)
    os.waitpid(pid, 0)
    while not glob.glob(out + "/step-*/trainer/state.json") and time.time() < deadline: time.sleep(0.02)
    import fcntl
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # until the run has ended
    os.close(lock)
    logged = [json.loads(line) for line in open(out + "/log.jsonl")]
    last = max(line["step"] for line in logged if line["type"] == "step")
    saved = [int(name[-8:]) for name in glob.glob(out + "/step-*")]
    assert saved == [last], (out, saved, last)
    subprocess.run([program, "train", "--resume", out, "--stop-at", str(last + 2)], check=True,
                   stdout=subprocess.DEVNULL)
    assert os.path.isdir(f"{out}/step-{last + 2:08d}")' "$program" "${endless[@]}"

# The reader of the output leaves.
"$program" "${endless[@]}" --out piped 2>errors | head -n 20 >/dev/null
equal "train | head: exit code" "${PIPESTATUS[0]}" 1
check "it says so" grep -q "standard output cannot be written, so the run stopped at step" errors
check "it is saved" bash -c 'test -d piped/step-*'
rm -rf tty* piped

# The reader of the output is slow, and the pipe is one that does not wait.
check "a slow reader gets everything" python 'import fcntl, os, subprocess, sys, time
reader, writer = os.pipe()
if hasattr(fcntl, "F_SETPIPE_SZ"): fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
program = subprocess.Popen([sys.argv[1], "train", "--help"], stdout=writer)
os.close(writer)
time.sleep(0.5)
text = b""
while part := os.read(reader, 65536): text += part
assert program.wait() == 0 and text.endswith(b"show this\n"), (program.wait(), text[-80:])' "$program"

start() {  # OUT ARGUMENTS...: in the background, as $pid
    local out=$1
    shift
    set -m
    "$program" "${endless[@]}" --out "$out" "$@" >output 2>errors &
    pid=$!
    set +m
}
ended() {  # SIGNAL: the exit code of the process
    kill "-$1" $pid
    wait $pid
    code=$?
}
start hung
wait_for grep -q '"step"' hung/log.jsonl
ended HUP
equal "SIGHUP: exit code" "$code" 0
says "stopped at step"
# nohup's choice is respected.
set -m
(trap '' HUP; exec "$program" "${endless[@]}" --out nohup >output 2>errors) &
pid=$!
set +m
wait_for grep -q '"step"' nohup/log.jsonl
kill -HUP $pid
steps=$(grep -c '"type": "step"' nohup/log.jsonl)
wait_for bash -c "[ \$(grep -c '\"type\": \"step\"' nohup/log.jsonl) -gt $((steps + 50)) ]"
ended TERM
equal "after an ignored SIGHUP: exit code" "$code" 0
says "stopped at step"

# A run that validates stops validating. Two signals at once are one; a later one ends the program.
python 'data = open("val.npy", "rb").read()
open("long.npy", "wb").write(data * 3000)'
start validating --val-data long.npy --eval-every 1
wait_for grep -q '"step"' validating/log.jsonl
kill -TERM $pid $pid
wait $pid
equal "a signal while validating: exit code" "$?" 0
equal "no figure of half a validation" "$(grep -c '"eval"' validating/log.jsonl)" 0
check "it is saved" test -d validating/step-00000001

# Validation data that another program breaks while the run lasts: the steps are saved.
cp val.npy breaking.npy
start broken --val-data breaking.npy --eval-every 2000
wait_for grep -q '"step"' broken/log.jsonl
: >breaking.npy
wait $pid
equal "validation data that was cut short: exit code" "$?" 1
check "it says so" grep -q "breaking.npy: has 0 bytes, had" errors
check "it is saved" grep -q "The run is saved up to step 2000: correct the file and resume" errors
check "it is there" test -d broken/step-00002000

# A limit of processor time, as batch systems set: the run saves before its hard limit.
(ulimit -S -t 1 && exec timeout 60 "$program" "${endless[@]}" --out limited >output 2>errors)
equal "the end of the processor time: exit code" "$?" 0
says "stopped at step"

# A step that takes a minute, and a person who does not wait for it: the second signal ends the program.
set -m
"$program" train --config 14M --vocab-size 260 --seq-len 16 --data long.npy --batch-size 20000 --steps 3 \
    --instance-filter off --out slow >output 2>errors &
pid=$!
set +m
wait_for test -s slow/log.jsonl
sleep 0.3
kill -INT $pid
sleep 0.7
ended INT
equal "a second signal: exit code" "$code" 130
equal "nothing was saved" "$(ls slow)" "log.jsonl"

# While a model is being initialised a signal ends the program at once, and nothing is left.
set -m
"$program" train --config 370M --data train.npy --seq-len 16 --batch-size 1 --steps 3 --out early >output 2>errors &
pid=$!
set +m
wait_for grep -q '^directory' output
ended TERM
equal "a signal while initialising: exit code" "$code" 143
check "nothing is left" test ! -e early

# ---------------------------------------------------------------------------------------------
# standard output that cannot be written, or was closed

last=whole/step-00000020
if [ -e /dev/full ]; then
    for command in "--help" "train --help" "detokenize --tokenizer tokenizer.json val.npy" \
        "generate --load $last --max-tokens 5" "eval --load $last --data val.npy" "inspect $last" "inspect 1B" \
        "train --config 1B --dry-run"; do
        "$program" $command >/dev/full 2>errors
        equal "$command >/dev/full: exit code" "$?" 1
        check "$command >/dev/full: why" grep -q "error: .*cannot be written" errors
    done
else
    echo "skipped: output to a full disk (no /dev/full)"
fi
for command in "--help" "detokenize --tokenizer tokenizer.json val.npy" "generate --load $last --max-tokens 5" \
    "eval --load $last --data val.npy" "inspect $last"; do
    "$program" $command >&- 2>errors
    equal "$command, standard output closed: exit code" "$?" 1
    check "$command, standard output closed: why" grep -q "error: .*cannot be written: Bad file descriptor" errors
done
"$program" "${new[@]}" --out closed --steps 2 >&- 2>errors
equal "standard output closed: exit code" "$?" 0
check "the log is what it should be" python 'import json
for line in open("closed/log.jsonl"): json.loads(line)'

# ---------------------------------------------------------------------------------------------
# two runs that start at the same moment in the same new directory: one has it, the other says so

check "parallel starts" python '
import subprocess, sys
for i in range(10):
    command = [*sys.argv[1:], "--out", f"new{i}/a/b/c", "--steps", "3"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [p.communicate()[1].decode() for p in both]
    codes = sorted(p.returncode for p in both)
    assert codes == [0, 1], (codes, errors)
    text = "".join(errors)
    assert "another process is training this run" in text or "holds another run" in text or "holds the log" in text, text
' "$program" "${new[@]}"

run generate --load fresh --tokenizer tokenizer.json --prompt "the cat" --max-tokens 3
run train --config config.json --data train.npy --batch-size 8 --steps 1 --out untold
refuse "--tokenizer: is missing" generate --load untold --max-tokens 3
run generate --load untold --tokenizer tokenizer.json --prompt "the cat" --max-tokens 3

finish
