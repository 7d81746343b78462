#!/usr/bin/env python3
"""Breaks the mathematics in one place at a time and requires test_olmo2 to fail.

Each mutation is compiled into a copy of test_olmo2 and run. A mutation that stays green is a gap in the
tests. The unmodified source must be green; otherwise a red would mean nothing. It is a failure, too, if a
mutation does not compile, if it ends by a signal, or if its text is no longer in the source.

    python3 dev/test/test_mutations.py [NAME...]       all mutations, or those whose name contains a NAME
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
C = "train_olmo2.c"
COMPILE = f"{os.environ.get('CC', 'cc')} -std=c11 -D_GNU_SOURCE -Og -I. test_olmo2.c -o mutant -w -lm".split()


class Edit(NamedTuple):
    """Replaces every occurrence of `old` in `file` by `new`."""

    file: str
    old: str
    new: str


# name, edits
MUTATIONS = [
    ("no QK-norm", [Edit(C, "m->config = *config;", "m->config = *config; m->config.ablate_qk_norm = true;")]),
    ("QK-norm head by head", [
        Edit(C, "rmsnorm_forward(y, rstd, x, w, N, NH * HS, eps);",
             "for (size_t i = 0; i < N * NH; i++) { rmsnorm_forward(y + i * HS, rstd + i / NH, "
             "x + i * HS, w + i % NH * HS, 1, HS, eps); }")]),
    ("QK-norm after RoPE", [
        Edit(C, "rmsnorm_forward(y, rstd, x, w, N, NH * HS, eps);\n"
                "    rope_forward(y, rope, positions, N, NH, HS);",
             "memcpy(y, x, N * NH * HS * sizeof(float));\n    rope_forward(y, rope, positions, N, NH, HS);\n"
             "    rmsnorm_forward(y, rstd, y, w, N, NH * HS, eps);")]),
    ("interleaved RoPE", [
        Edit(C, "head[i + half]", "head[2 * i + 1]"),
        Edit(C, "head[i]", "head[2 * i]")]),
    ("RoPE turns the other way", [
        Edit(C, "rope[t * HS + i + HS / 2] = sinf(angle);", "rope[t * HS + i + HS / 2] = -sinf(angle);")]),
    ("RoPE with stretched positions", [
        Edit(C, "float angle = (float)t * frequency;", "float angle = (float)(t + t / 4) * frequency;")]),
    ("theta 10000", [Edit(C, "config->HS, config->rope_theta);", "config->HS, 10000.0f);")]),
    ("eps 1e-5", [Edit(C, "const float eps = c->rms_eps;", "const float eps = 1e-5f;")]),
    ("pre-norm", [Edit(C, "m->config = *config;", "m->config = *config; m->config.pre_norm = true;")]),
    ("up and gate swapped", [
        Edit(C, "swiglu_forward(s->act, a.gate, a.up", "swiglu_forward(s->act, a.up, a.gate")]),
    ("sigmoid for silu", [Edit(C, "a[i] = gate[i] / (1.0f +", "a[i] = 1.0f / (1.0f +")]),
    ("missing 1/sqrt(HS)", [Edit(C, "scale = 1.0f / sqrtf((float)HS);", "scale = 1.0f;")]),
    ("wrong query group", [Edit(C, "h / (NH / NKV) * past.head", "h % NKV * past.head")]),
    ("mask lets the next token through", [
        Edit(C, "visible = t.position + r + 1;", "visible = gemm_min(t.position + r + 2, keys);")]),
    ("mask hides the first token", [
        Edit(C, "const float max = scale * maximum(s_i, visible);",
             "if (visible > 1) { s_i[0] = -80.0f / scale; }\n"
             "                const float max = scale * maximum(s_i, visible);")]),
    ("tied embeddings", [
        Edit(C, "lm_head = weight_of(m, LM_HEAD, 0)",
             "lm_head = weight_of(m, EMBEDDING, 0)")]),
    ("feed-forward reads x", [
        Edit(C, "matmul_forward(a.gate, a.h,", "matmul_forward(a.gate, a.x,"),
        Edit(C, "matmul_forward(a.up, a.h,", "matmul_forward(a.up, a.x,")]),
    ("last layer dropped", [
        Edit(C, "for (size_t l = 0; l < c->L; l++) {\n        if (is_ablated(c)) {\n            ablated_layer_forward",
             "for (size_t l = 0; l + 1 < c->L; l++) {\n        if (is_ablated(c)) {\n"
             "            ablated_layer_forward")]),
    ("padding columns left out of the softmax", [
        Edit(C, "for (size_t j = 0; j < V; j += 256)", "for (size_t j = 0; j < V - 4; j += 256)"),
        Edit(C, "V - j < 256 ? V - j : 256", "V - 4 - j < 256 ? V - 4 - j : 256")]),
    ("z-loss gradient missing", [
        Edit(C, "factor = weights[n] * (1.0f + 2.0f * z * lse_n);", "factor = weights[n];")]),
    ("z-loss gradient without its 2", [Edit(C, "(1.0f + 2.0f * z * lse_n)", "(1.0f + z * lse_n)")]),
    ("labels not shifted", [
        Edit("llmc/objectives.h", "labels[i] = trained ? tokens[i + 1]", "labels[i] = trained ? tokens[i]")]),
    ("= for += in a weight gradient", [
        Edit(C, "O, I, N, true, context.products);", "O, I, N, false, context.products);")]),
    ("= for += in a norm's gradient", [Edit(C, "dw[c0 + c] += sum[c];", "dw[c0 + c] = sum[c];")]),
    ("= for += in the embedding's gradient", [
        Edit(C, "dtable[tokens[n] * C + c] += dx", "dtable[tokens[n] * C + c] = dx")]),
    ("gradients of a group's query heads not added", [
        Edit(C, "for (size_t h = g * group; h < (g + 1) * group; h++) {",
             "for (size_t h = g * group; h < (g + 1) * group; h++) {\n"
             "                memset(dk + key, 0, HS * sizeof(float));")]),
    ("softmax backward without its mean", [
        Edit(C, "p_i[j] * (ds_i[j] - mean) * scale", "p_i[j] * ds_i[j] * scale")]),
    ("rmsnorm backward without its mean", [
        Edit(C, "dx_n[c] = s * (dx_n[c] - x_n[c] * s * mean);", "dx_n[c] = s * dx_n[c];")]),
    ("branch gradient not added to the residual", [
        Edit(C, "matmul_backward(s->dx, d.wv, s->dv, a.x, w.wv, N, C, KV, true);",
             "matmul_backward(s->dx, d.wv, s->dv, a.x, w.wv, N, C, KV, false);")]),
    ("decay on embeddings", [
        Edit(C, "p.row->decay ? settings->weight_decay : 0.0f", "settings->weight_decay")]),
    ("no decay on norms", [
        Edit(C, "p.row->decay ? settings->weight_decay : 0.0f",
             "p.row->decay && p.columns > 1 ? settings->weight_decay : 0.0f")]),
    ("no bias correction of m", [
        Edit(C, "(float)(1.0 - pow((double)s->beta1, (double)s->t))", "1.0f")]),
    ("no bias correction of v", [
        Edit(C, "(float)sqrt(1.0 - pow((double)s->beta2, (double)s->t))", "1.0f")]),
    ("bias correction stays at the first step", [Edit(C, "(double)s->t)", "1.0)")]),
    ("clip after the update", [Edit(C, "g[i] * s->gradient_scale", "g[i]")]),
    ("eps inside the square root", [
        Edit(C, "(sqrtf(v[i]) / correction2 + s->eps)",
             "sqrtf(v[i] / (correction2 * correction2) + s->eps)")]),
    ("gradient norm of the last tensor missing", [
        Edit(C, "for (size_t i = 0; i < parameter_count(&m->config); i++) {\n"
                "        const Parameter p = parameter_at(&m->config, i);\n        sum +=",
             "for (size_t i = 0; i + 1 < parameter_count(&m->config); i++) {\n"
             "        const Parameter p = parameter_at(&m->config, i);\n        sum +=")]),
]


def verdict(name: str, edits: List[Edit]) -> str:
    """Tests a copy of the project with these edits: 'red', 'green', or what went wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        shutil.copytree(ROOT / "llmc", copy / "llmc")
        for file in ("train_olmo2.c", "test_olmo2.c"):
            shutil.copy(ROOT / file, copy)
        (copy / "dev").mkdir()
        (copy / "dev/reference").symlink_to(ROOT / "dev/reference")
        (copy / "dev/test").symlink_to(ROOT / "dev/test")
        (copy / "dev/ablations").symlink_to(ROOT / "dev/ablations")
        for edit in edits:
            text = (copy / edit.file).read_text()
            if edit.old not in text:
                return f"its text is not in {edit.file}: {edit.old!r}"
            (copy / edit.file).write_text(text.replace(edit.old, edit.new))
        build = subprocess.run(COMPILE, cwd=copy, capture_output=True, text=True)
        if build.returncode != 0:
            return "does not compile: " + build.stderr.strip().splitlines()[0]
        try:
            run = subprocess.run(["./mutant"], cwd=copy, capture_output=True, timeout=600)
        except subprocess.TimeoutExpired:
            return "does not end"
        if run.returncode == 0:
            return "green"
        # red is the verdict of a comparison; a crash or an unreadable file is not
        return "red" if run.returncode == 1 and b"WRONG" in run.stdout else f"ended with {run.returncode}"


def main() -> int:
    chosen = [m for m in MUTATIONS if not sys.argv[1:] or any(word in m[0] for word in sys.argv[1:])]
    passed = failed = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        wanted = [("the source as it is", [], "green")] + [(name, edits, "red") for name, edits in chosen]
        for (name, _, want), got in zip(wanted, pool.map(lambda w: verdict(w[0], w[1]), wanted)):
            passed += got == want
            failed += got != want
            print(f"{name:48} {got}{'' if got == want else f'   WRONG: should be {want}'}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
