#!/usr/bin/env python3
"""Tests dev/bench/gpu_report.py and scripts/gpu_report.sh without a GPU: the arithmetic, the parsing of the
programs' output, the report, and the script from end to end, with stubs for everything that needs a GPU."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Callable, Optional

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "dev" / "bench"))

import gpu_report
from gpu_report import Shape

passed = failed = 0


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED {what}")


def near(value: float, expected: float, tolerance: float, what: str) -> None:
    check(abs(value - expected) <= tolerance, f"{what}: {value}, expected {expected}")


def plan_of(L: int, C: int, NH: int, F: int) -> str:
    return f"""backend        CUDA, bf16, no device found
model          X
layers         {L} of {C} channels
heads          {NH} for queries, {NH} for keys and values, of size {C // NH}
feed-forward   {F} channels
vocabulary     100352 rows
length         4096 tokens
constants      rms_norm_eps 1e-06, rope_theta 500000
micro-batch    9 sequences of 4096 tokens
"""


PLANS = {
    "190M": plan_of(12, 768, 12, 3072),
    "1B": plan_of(16, 2048, 16, 8192),
    "7B": plan_of(32, 4096, 32, 11008),
    "13B": plan_of(40, 5120, 40, 13824),
}

LADDER = """forward (N, C), bf16: the largest error, relative to the largest number expected
   version                                array      reached   allowed  verdict  worst at
1  a thread takes a row                   y          3.1e-03   3.9e-03  ok       (1, 2048)
                                          rstd       3.0e-06   1.0e-05  ok       (1, 2048)
3  shipped: a warp | a row                y          3.1e-03   3.9e-03  ok       (1, 2048)

16 passed, 0 failed
forward (N, C), bf16: the largest error, relative to the largest number expected
1  a thread takes a row                       400.0 us  100.5 GB/s, 3.0 % of 3352.3  (NVIDIA H100 80GB HBM3)

backward (N, C), bf16: the largest error, relative to the largest number expected
1  a thread takes a row                       900.0 us  50.0 GB/s  10.0 TFLOP/s  (NVIDIA H100 80GB HBM3)

8 passed, 0 failed
forward (N, C), bf16: the largest error, relative to the largest number expected
3  shipped: a warp | a row                     16.0 us  2512.0 GB/s, 74.9 % of 3352.3  (NVIDIA H100 80GB HBM3)

8 passed, 0 failed
"""
COPY = """copy (N), bf16: the largest error
1  CUDA's own: cudaMemcpyAsync                180.5 us  2974.0 GB/s, 88.7 % of 3352.3  (NVIDIA H100 80GB HBM3)
launches (size), bf16: the largest error
1  only a check                                 2.0 us  (NVIDIA H100 80GB HBM3)
5 passed, 0 failed
"""
MATMUL = """forward (N, I, O), bf16: the largest error
1  a thread takes an output             90000.0 us  3.1 TFLOP/s, 0.3 % of 989.4  (NVIDIA H100 80GB HBM3)
2  shipped: cuBLAS                        370.0 us  742.9 TFLOP/s, 75.1 % of 989.4  (NVIDIA H100 80GB HBM3)
5 passed, 0 failed
"""
TORCH = """PyTorch 2.13.0+cu130, compiled, bf16, NVIDIA H100 80GB HBM3, 1484.9M parameters, B 8, T 4096
step 910 ms: forward and loss 300, backward 590, update 20
median 910.0 min 905.0 max 920.0
"""
FACTS = "device: NVIDIA H100 80GB HBM3\ndriver: 580.1: beta\n"


def log_of(speeds: list[float], loss: Optional[float] = 11.9) -> str:
    settings = {"recompute": "elementwise", "master-weights": True, "moments": "fp32"}
    lines = [{"type": "run", "settings": settings, "tokens_per_step": 9 * 4096}]
    for step, speed in enumerate(speeds, 1):
        lines.append(
            {"type": "step", "step": step, "loss": loss, "gradient_norm": 1.5, "tokens_per_second": speed}
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


def fails(call: Callable[[], object], words: str) -> bool:
    try:
        call()
    except ValueError as error:
        return words in str(error)
    return False


# ---------------------------------------------------------------------------------------------


def test_flops() -> None:
    shapes = {size: gpu_report.parse_plan(plan) for size, plan in PLANS.items()}
    check(shapes["1B"] == Shape(L=16, C=2048, Q=2048, KV=2048, F=8192, V=100352, T=4096), "the shape of 1B")
    check(shapes["190M"].matmul_parameters() == 113_246_208 + 77_070_336, "N of 190M")
    expected = {"190M": (1.368, 1.595), "1B": (8.481, 9.286), "7B": (44.54, 47.77), "13B": (84.24, 89.28)}
    for size, (causal, full) in expected.items():
        near(shapes[size].flops_causal() / 1e9, causal, 6e-4 * causal, f"GFLOP of {size}, causal")
        near(shapes[size].flops_full() / 1e9, full, 6e-4 * full, f"GFLOP of {size}, as OLMo-core counts")
    near(gpu_report.mfu(46_000, shapes["1B"].flops_causal(), 989.4), 0.394, 5e-4, "MFU of 46,000 tokens/s")
    near(
        gpu_report.mfu(46_000, shapes["1B"].flops_full(), 989.4), 0.432, 5e-4, "the same as OLMo-core counts"
    )
    grouped = PLANS["1B"].replace("16 for queries, 16 for keys", "16 for queries, 4 for keys")
    near(
        gpu_report.parse_plan(grouped).matmul_parameters(),
        1_279_262_720 - 16 * 2 * 2048 * 1536,
        0,
        "N, grouped",
    )
    check(
        fails(lambda: gpu_report.parse_plan(PLANS["1B"].replace("layers", "l")), "layers"),
        "a plan without layers",
    )


def test_log() -> None:
    log = gpu_report.parse_log(log_of([1.0, 2.0, 100.0, 130.0, 110.0]))
    check(log.speed() == 110.0 and log.tokens_per_step == 9 * 4096, "the median without the first two steps")
    check(gpu_report.settings_of(log) == "bf16", "settings that are the defaults")
    cut = log_of([1.0, 2.0, 100.0, 130.0])[:-20]
    check(gpu_report.parse_log(cut).speed() == 100.0, "a log whose last line is incomplete")
    check(fails(lambda: gpu_report.parse_log(log_of([1.0, 2.0])), "2 steps"), "a log that is too short")
    check(fails(lambda: gpu_report.parse_log(""), "0 steps"), "an empty log")
    thrifty = (
        log_of([1.0] * 3).replace("true", "false").replace("fp32", "bf16").replace("elementwise", "block")
    )
    said = gpu_report.settings_of(gpu_report.parse_log(thrifty))
    check(said == "bf16, no master weights, bf16 moments, recompute block", f"settings: {said}")


def test_ladder() -> None:
    timings = gpu_report.parse_ladder(LADDER)
    order = [(t.operation, t.version) for t in timings]
    check(order == [("forward", 1), ("forward", 3), ("backward", 1)], f"operations and versions: {order}")
    check(
        timings[1].idea == "shipped: a warp | a row" and timings[1].microseconds == 16.0, "an idea and a time"
    )
    check(
        timings[1].bandwidth == gpu_report.Rate(2512.0, 3352.3) and timings[1].arithmetic is None,
        "a bandwidth",
    )
    check(timings[2].bandwidth == gpu_report.Rate(50.0, None), "a rate without a limit")
    check(timings[2].arithmetic == gpu_report.Rate(10.0, None), "two rates in a line")
    check(gpu_report.parse_ladder("16 passed, 0 failed\n") == [], "nothing timed")
    source = (ROOT / "dev" / "cuda" / "ladder.cuh").read_text()
    for piece in (
        '"%-2d %-38s %10.1f us"',
        '"  %.1f %s"',
        '", %.1f %% of %.1f"',
        '"%s (%s), " FLOATX_NAME ": ',
    ):
        check(piece in source, f"dev/cuda/ladder.cuh prints what parse_ladder reads: {piece}")


def test_torch() -> None:
    run = gpu_report.parse_torch(TORCH)
    check((run.version, run.B, run.T) == ("2.13.0+cu130", 8, 4096), "what PyTorch ran")
    near(run.speed(), 8 * 4096 / 0.910, 1e-6, "its speed")
    check(
        fails(lambda: gpu_report.parse_torch("a\nerror: out of memory\n"), "error: out of memory"),
        "its failure",
    )
    check(fails(lambda: gpu_report.parse_torch(""), "nothing"), "PyTorch printed nothing")


def test_programs() -> None:
    """The program prints the formats above."""
    program = ROOT / "train_olmo2"
    if not program.exists():
        print("skipped: the formats of ./train_olmo2 (it is not built)")
        return
    plan = subprocess.run(
        [program, "train", "--config", "32B", "--dry-run"], capture_output=True, text=True
    ).stdout
    shape = gpu_report.parse_plan(plan)
    check(
        shape == Shape(L=64, C=5120, Q=5120, KV=1024, F=27648, V=100352, T=4096), f"the plan of 32B: {shape}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gpu_report.write_tokens(folder / "tokens.npy", 4096)
        words = "train --config 1M --vocab-size 100352 --seq-len 16 --batch-size 2 --steps 4 --save-every 0"
        files = ["--data", str(folder / "tokens.npy"), "--out", str(folder / "run")]
        command = [str(program), *words.split(), *files]
        ran = subprocess.run(command, capture_output=True, text=True)
        check(ran.returncode == 0, f"a run on tokens of gpu_report.py: {ran.stderr}")
        text = (folder / "run" / "log.jsonl").read_text()
        log = gpu_report.parse_log(text)
        check(log.tokens_per_step == 32 and len(log.speeds) == 4 and log.speed() > 0, "its log")
        check(gpu_report.settings_of(log) == "bf16" and "recompute" in log.settings, "its settings")
        check(text.count('"type": "step"') == 4, "the lines by which gpu_report.sh counts steps")


# ---------------------------------------------------------------------------------------------


def folder_of(path: Path) -> Path:
    files = {
        "facts": FACTS, "test_olmo2cu_bf16.txt": "100 passed, 0 failed\n", "ladder_rmsnorm.txt": LADDER,
        "ladder_copy.txt": COPY, "ladder_matmul.txt": MATMUL, "train_1B.plan": PLANS["1B"],
        "train_1B.jsonl": log_of([1.0, 2.0, 46_000.0]),
        "train_1B_again.jsonl": log_of([1.0, 2.0, 45_000.0, 4.0]),
        "torch_1B_compiled.txt": TORCH, "torch_1B_eager.txt": "error: CUDA out of memory\n",
    }  # fmt: skip
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_report() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = folder_of(Path(name))
        report = gpu_report.write(folder, ["1B"])
        lines = report.lines
        text = "\n".join(lines)
        check(not report.failed, "nothing failed")
        check(lines[0] == "# train_olmo2.cu on NVIDIA H100 80GB HBM3", "the heading")
        check("| driver | 580.1: beta |" in lines, "a fact with a colon")
        check(
            "| ladder rmsnorm | 32 | 0 |" in lines and "| test olmo2cu_bf16 | 100 | 0 |" in lines, "the tests"
        )
        check(
            "| 1B | train_olmo2cu | bf16 | 9 | 46,000 | 801.4 | 39.4 % | 43.2 % | 1.00 |" in lines, "our step"
        )
        theirs = "| bf16 autocast | 8 | 36,009 | 910.0 | 30.9 % | 33.8 % | 1.28 |"
        check(f"| 1B | PyTorch 2.13.0+cu130, compiled {theirs}" in lines, "PyTorch's step")
        check("- 1B in PyTorch, eager: error: CUDA out of memory" in lines, "PyTorch's failure is reported")
        check(
            "- 1B, run twice: the same bits of loss and gradient norm in 3 steps." in lines, "the same bits"
        )
        shipped = (
            "| rmsnorm forward | 3 | **shipped: a warp \\| a row** | 16.0 | 25.00 | 2,512 | 84.5 % |  |  |"
        )
        check(shipped in lines, "a kernel against the copy")
        check(
            "A copy within the device's memory: 2,974 GB/s, read and written together." in lines, "the copy"
        )
        cublas = "| matmul forward | 2 | **shipped: cuBLAS** | 370.0 | 243.24 |  |  | 742.9 | 75.1 % |"
        check(cublas in lines, "a product against the peak")
        check("only a check" not in text.split("## Output of the programs")[0], "no row without a rate")
        tables = [line for line in lines if line.startswith("|")]
        widths = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
        check(set(widths) == {3, 4, 10}, f"every row of a table has its columns: {set(widths)}")

        for file, content, what in (
            ("train_1B_again.jsonl", log_of([1.0, 2.0, 3.0], loss=11.8), "**different** bits"),
            (
                "ladder_rmsnorm.txt",
                LADDER.replace("8 passed, 0 failed", "7 passed, 1 failed"),
                "| 30 | **2** |",
            ),
            ("ladder_rmsnorm.txt", "Segmentation fault\n", "| ladder rmsnorm | 0 | **1** |"),
            ("ladder_rmsnorm.txt", LADDER + "\nexit code 139: x\n", "| ladder rmsnorm | 32 | **1** |"),
            ("train_1B.jsonl", log_of([1.0]), "**1B was not measured**"),
        ):
            kept = (folder / file).read_text()
            (folder / file).write_text(content)
            report = gpu_report.write(folder, ["1B"])
            check(report.failed and what in "\n".join(report.lines), f"a failure is reported: {what}")
            (folder / file).write_text(kept)
        (folder / "train_7B.txt").write_text(
            "error: --memory 24G: one sequence of 4096 tokens needs 60 GB\n  Less.\n"
        )
        report = gpu_report.write(folder, ["7B"])
        said = "- **7B was not measured**: error: --memory 24G: one sequence of 4096 tokens needs 60 GB Less."
        check(report.failed and said in report.lines, "a size that does not fit")
        (folder / "ladder_matmul.txt").unlink()
        (folder / "ladder_copy.txt").unlink()
        text = "\n".join(gpu_report.write(folder, ["1B"]).lines)
        check("| 801.4 | ? | ? | 1.00 |" in text and "not known for this device" in text, "without a peak")
        check("not measured" in text, "without a copy")


def test_files() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gpu_report.replace_file(folder / "new" / "report.md", "text")
        check([f.name for f in (folder / "new").iterdir()] == ["report.md"], "nothing but the report")
        gpu_report.write_tokens(folder / "tokens", 20_000)
        data = (folder / "tokens").read_bytes()
        tokens = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        check(len(tokens) == 20_000 and max(tokens) < gpu_report.VOCABULARY, "token ids")
        common = tokens.count(0) / len(tokens)
        near(common, 1 / 2.7 / 10.65, 0.01, "the most frequent token")
        sys.argv = ["gpu_report.py", "write", str(folder), "--out", str(folder / "never.md")]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                gpu_report.main()
        except OSError:
            pass
        check(not (folder / "never.md").exists(), "no report of an empty folder")


# ---------------------------------------------------------------------------------------------
# the script

# What the script calls, as far as it has to exist.
STUB_SMI = """#!/bin/sh
case "$*" in
    *memory*) echo 80000 ;;
    *) echo 'Stand-in GPU' ;;
esac
"""
STUB_NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n"
STUB_TRAIN = """#!/bin/sh
dry=no out=
for word; do
    [ "$word" != --dry-run ] || dry=yes
    [ "$before" != --out ] || out=$word
    before=$word
done
case "$*" in
    *"--moments bf16"*) ;;
    *) if [ -f small ]; then echo 'error: too small' >&2 && exit 1; fi ;;
esac
if [ $dry = yes ]; then cat plan; exit; fi
mkdir -p "$out"
cat log >"$out/log.jsonl"
exec sleep 600
"""
STUB_KERNEL = "#!/bin/sh\ncat kernel_${1:-0}\n"
STUB_TORCH = """#!/bin/sh
case "$*" in
    *"import sys, torch"*) exit 0 ;;
    *"--B 9 "*) echo 'error: out of memory'; exit 3 ;;
    *bench_step.py*) cat torch ;;
    *) exit 1 ;;
esac
"""
STUB_MAKEFILE = """
train_olmo2cu build/test_olmo2cu build/cuda/copy:
\tmkdir -p $(@D) && cp stub_$(notdir $@) $@
"""


def script_tree(folder: Path) -> dict[str, str]:
    """Makes a project around scripts/gpu_report.sh from stubs; returns its environment."""
    for path in (
        "scripts/gpu_report.sh",
        "scripts/setup.sh",
        "dev/bench/gpu_report.py",
        "dev/bench/bench_step.py",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    programs = {
        "bin/nvidia-smi": STUB_SMI, "bin/torch": STUB_TORCH, "cuda/bin/nvcc": STUB_NVCC,
        "stub_train_olmo2cu": STUB_TRAIN, "stub_test_olmo2cu": "#!/bin/sh\necho '7 passed, 0 failed'\n",
        "stub_copy": STUB_KERNEL,
    }  # fmt: skip
    largest = "largest        9 sequences at once\n"
    texts = {
        "cuda/include/cublas_v2.h": "", "dev/cuda/copy.cu": "", "Makefile": STUB_MAKEFILE,
        "plan": PLANS["1B"] + largest, "log": log_of([1.0, 2.0, 3.0, 4.0]), "torch": TORCH,
        "kernel_0": "1  plain    y  0.0e+00   3.9e-03  ok  (1)\n2  shipped  y  0.0e+00   3.9e-03  ok  (1)\n"
                    "2 passed, 0 failed\n",
        "kernel_1": COPY, "kernel_2": COPY.replace("1  CUDA", "2  CUDA").replace("2974", "3000"),
    }  # fmt: skip
    for name, text in {**texts, **programs}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755 if name in programs else 0o644)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    environment = {**os.environ, "CUDA_HOME": str(folder / "cuda"), "PYTHON": str(folder / "bin" / "torch")}
    environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    return environment


def run_script(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / "scripts" / "gpu_report.sh"), *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_script() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = script_tree(folder)
        ran = run_script(folder, environment, "--steps", "4")
        check(ran.returncode == 0, f"the script from end to end: {ran.stdout[-500:]} {ran.stderr[-500:]}")
        file = folder / "dev" / "cuda" / "REPORT-Stand-in-GPU.md"
        text = file.read_text() if file.exists() else ""
        check(
            "| 190M | train_olmo2cu | bf16 | 9 | 4 |" in text and "| 1B | train_olmo2cu |" in text,
            "both sizes",
        )
        check(
            "| PyTorch 2.13.0+cu130, compiled | bf16 autocast | 8 |" in text,
            "PyTorch, after it ran out of memory",
        )
        check("| PyTorch 2.13.0+cu130, eager |" in text, "PyTorch without its compiler")
        check(
            "| copy copy | 2 | **CUDA's own: cudaMemcpyAsync** |" in text and "3,000 GB/s" in text,
            "the kernels",
        )
        check(
            "- 190M, run twice: the same bits" in text and "1B, run twice" not in text, "the first size twice"
        )
        check(
            "| CUDA | 13.0.88 |" in text and "| test olmo2cu_fp32 | 7 | 0 |" in text, "the machine, the tests"
        )
        check(not list((folder / "build" / "gpu_report").glob("run-*")), "no run directory is left")

        (folder / "small").touch()
        ran = run_script(folder, environment, "--steps", "4", "--sizes", "1B", "--out", "small.md")
        text = (folder / "small.md").read_text() if (folder / "small.md").exists() else ""
        log = (folder / "build" / "gpu_report" / "train_1B.txt").read_text()
        check(ran.returncode == 0 and "| 1B | train_olmo2cu |" in text, f"a small GPU: {ran.stderr} {log}")
        (folder / "small").unlink()

        (folder / "stub_test_olmo2cu").write_text("#!/bin/sh\necho '6 passed, 1 failed'\nexit 1\n")
        (folder / "stub_train_olmo2cu").write_text("#!/bin/sh\necho 'error: no CUDA device' >&2\nexit 1\n")
        ran = run_script(folder, environment, "--sizes", "1B", "--out", "bad.md")
        text = (folder / "bad.md").read_text() if (folder / "bad.md").exists() else ""
        check(
            ran.returncode == 1 and "| test olmo2cu_bf16 | 6 | **1** |" in text, "a failed test is reported"
        )
        check("**1B was not measured**: error: no CUDA device" in text, "a run that fails is reported")
        file.unlink()

        for what, words, changed, content in (
            ("a GPU", "finds no GPU", "bin/nvidia-smi", "#!/bin/sh\nexit 9\n"),
            ("rules to build with", "was not built", "Makefile", ""),
        ):
            environment = script_tree_again(folder)
            (folder / changed).write_text(content)
            ran = run_script(folder, environment)
            check(ran.returncode != 0 and words in ran.stderr, f"without {what}: {ran.stderr}")
            check(not file.exists(), f"no report without {what}")
        environment = script_tree_again(folder)
        environment["CUDA_HOME"] = str(folder / "nowhere")
        environment["PATH"] = f"{folder / 'bin'}:/usr/bin:/bin"
        if shutil.which("nvcc", path=environment["PATH"]):
            print("skipped: gpu_report.sh without nvcc (it is in /usr/bin)")
        else:
            ran = run_script(folder, environment)
            check(ran.returncode != 0 and "needs nvcc" in ran.stderr, f"without nvcc: {ran.stderr}")
            check(not file.exists(), "no report without nvcc")
        check(run_script(folder, environment, "--bogus").returncode == 2, "an unknown option")


def script_tree_again(folder: Path) -> dict[str, str]:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return script_tree(folder)


def main() -> int:
    global failed
    tests: list[Callable[[], None]] = [
        test_flops,
        test_log,
        test_ladder,
        test_torch,
        test_programs,
        test_report,
        test_files,
        test_script,
    ]
    for test in tests:
        try:
            test()
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(f"FAILED {test.__name__} ended early")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
