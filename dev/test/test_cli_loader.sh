#!/usr/bin/env bash
# test_cli_loader.sh [PROGRAM]: token files as people give them: padded, masked, of another kind, changed
# while a run reads them, and changed between a run and its --resume. Needs bash and Python 3.
. "$(dirname "$0")/cli.sh"
make_tokens

small=(train --config 1M --vocab-size 260 --seq-len 64 --batch-size 4 --lr 1e-3)

# losses RUN: of its steps, one a line; nan or null where there is none.
losses() {
    python 'import json, sys
for line in open(sys.argv[1] + "/log.jsonl"):
    line = json.loads(line)
    if line["type"] == "step": print(line["loss"])' "$1"
}

weights() { cksum <"$(ls -d "$1"/step-* | tail -n 1)/model.safetensors"; }

# ---------------------------------------------------------------------------------------------
# padded documents: the instance filter must not see the padding

python '
import random, struct
random.seed(2)
def write(name, rows, masks):
    open(name, "wb").write(b"".join(struct.pack("<64I", *row) for row in rows))
    open(name + ".mask", "wb").write(b"".join(map(bytes, masks)))
documents = [[random.randrange(256) for _ in range(20)] + [256] for _ in range(16)]
pad, off = [257] * 43, [0] * 43
write("right.npy", [d + pad for d in documents], [[1] * 21 + off] * 16)
write("left.npy", [pad + d for d in documents], [off + [1] * 21] * 16)
write("middle.npy", [d[:9] + pad + d[9:] for d in documents], [[1] * 9 + off + [1] * 12] * 16)
write("labelled.npy", [d + pad for d in documents], [[1] * 64] * 4 + [[1] * 21 + off] * 12)'

for side in right left middle; do
    run "${small[@]}" --epochs 1 --data $side.npy --out $side
    run "${small[@]}" --epochs 1 --data $side.npy --instance-filter off --out $side-off
    check "$side: every step has a loss" python 'import math, sys
losses = [float(word) for word in sys.argv[1].split()]
assert len(losses) == 4 and all(2 < loss < 10 for loss in losses), losses' "$(losses $side)"
    equal "$side: weights with the filter" "$(weights $side)" "$(weights $side-off)"
done
# Padding that is trained on is a repetition like any other.
run "${small[@]}" --epochs 1 --data labelled.npy --out labelled
run "${small[@]}" --epochs 1 --data labelled.npy --instance-filter off --out labelled-off
if [ "$(weights labelled)" != "$(weights labelled-off)" ]; then pass; else fail "labelled: the filter is off"; fi

# ---------------------------------------------------------------------------------------------
# what is not a token file

fresh=(train --config config.json --out new --steps 2 --batch-size 4)
python '
import array
ids = [i % 200 for i in range(400)]
array.array("H", ids).tofile(open("halves.npy", "wb"))
array.array("f", ids).tofile(open("floats.npy", "wb"))
array.array("q", ids).tofile(open("wide.npy", "wb"))
big = array.array("I", ids)
big.byteswap()
big.tofile(open("big.npy", "wb"))'
gzip -c train.npy >train.npy.gz
printf 'x%.0s' 1 2 3 >>train.npy.gz  # gzip ignores what follows
truncate -s "$(($(stat -c %s train.npy.gz) / 4 * 4))" train.npy.gz
refuse "it looks like 16-bit ids" "${fresh[@]}" --data halves.npy
refuse "it looks like 32-bit floating point" "${fresh[@]}" --data floats.npy
refuse "it looks like 64-bit integers" "${fresh[@]}" --data wide.npy
refuse "it looks like big-endian uint32" "${fresh[@]}" --data big.npy
refuse "it is compressed by gzip" "${fresh[@]}" --data train.npy.gz
refuse "it looks like text; \`tokenize\`" "${fresh[@]}" --data text.npy
mkdir shards
cp train.npy shards
refuse "shards: is a directory, expected a file; for all token files in it give" "${fresh[@]}" --data shards
mkfifo pipe.npy
"$program" "${fresh[@]}" --data pipe.npy >output 2>errors & piped=$!
for _ in $(seq 100); do kill -0 $piped 2>/dev/null || break; sleep 0.1; done
if kill -0 $piped 2>/dev/null; then kill $piped; fail "pipe.npy: the program waits"; else
    check "pipe.npy is refused" grep -q "pipe.npy: is a pipe or a device" errors; fi
rm pipe.npy
# What a shell makes of shards/* holds masks too.
python 'open("shards/train.npy.mask", "wb").write(b"\1" * (len(open("train.npy", "rb").read()) // 4))'
run "${fresh[@]}" --data shards/*
says "in 1 file"
rm -r new shards/train.npy.mask
refuse "shards/x.mask: no such file" "${fresh[@]}" --data shards/train.npy shards/x.mask
ln -s nowhere shards/train.npy.mask
refuse "shards/train.npy.mask: cannot be opened: No such file" "${fresh[@]}" --data shards/train.npy

# ---------------------------------------------------------------------------------------------
# a file that changes under a run: cut short is an error, after which the run goes on as if nothing had
# happened

long=("${fresh[@]:0:3}" --steps 100000 --batch-size 4 --data used.npy --lr 1e-3)
cp train.npy used.npy
"$program" "${long[@]}" --out used >output 2>errors & used=$!
for _ in $(seq 200); do [ "$(cat used/log.jsonl 2>/dev/null | wc -l)" -gt 3 ] && break; sleep 0.1; done
: >used.npy
wait $used
equal "a file is cut short: exit code" $? 1
check "a file is cut short: the message" grep -q "used.npy: has 0 bytes, had [0-9]* when it was opened" errors
check "a file is cut short: the run is saved" grep -q "The run is saved up to step" errors
# Replaced by a rename, it is still the old one for the run.
cp train.npy used.npy
cp val.npy other.npy
last=$(($(ls -d used/step-* | tail -n 1 | sed 's/.*-0*//') + 600)) lines=$(wc -l <used/log.jsonl)
"$program" train --resume used --stop-at $last >output 2>errors & used=$!
for _ in $(seq 500); do [ "$(wc -l <used/log.jsonl)" -gt $((lines + 3)) ] && break; sleep 0.02; done
mv other.npy used.npy
wait $used
equal "a file is replaced: exit code" $? 0
cp train.npy used.npy
run "${long[@]}" --out undisturbed --stop-at $last
equal "a file is cut short and mended, and replaced: weights" "$(weights used)" "$(weights undisturbed)"

# ---------------------------------------------------------------------------------------------
# files that change between a run and its --resume

begin() {  # RUN: half a run on d/a.npy and d/b.npy
    rm -rf d "$1"
    mkdir d
    cp train.npy d/a.npy
    cp val.npy d/b.npy
    run "${fresh[@]:0:3}" --batch-size 4 --steps 12 --stop-at 6 --data 'd/*.npy' --out "$1"
}
begin whole
run train --resume whole
begin renamed
mv d/a.npy d/aa.npy
run train --resume renamed
equal "another name at the same place: weights" "$(weights renamed)" "$(weights whole)"
begin order
mv d/a.npy d/z.npy
refuse "d/b.npy: the files of the run are in another order: file 1 of 2 was a.npy" train --resume order
run train --resume order --accept-changed-data
begin content
python 'data = bytearray(open("d/b.npy", "rb").read()); data[0] ^= 1; open("d/b.npy", "wb").write(data)'
refuse "d/b.npy: file 2 of 2 has other content than was saved" train --resume content
begin missing
rm d/b.npy
refuse "b.npy: is missing, file 2 of the 2 files of the run" train --resume missing
run train --resume missing --accept-changed-data
begin added
cp val.npy d/c.npy
refuse "d/c.npy: is not one of the 2 files of the run" train --resume added
run train --resume added --accept-changed-data
begin mask
python 'open("d/b.npy.mask", "wb").write(b"\1" * (len(open("d/b.npy", "rb").read()) // 4))'
refuse "d/b.npy: file 2 of 2 was saved without a label mask" train --resume mask

finish
