"""The error of bf16 storage: how far a program that stores in bf16 and computes exactly is from float64.

    python bf16_floor.py           for each dump and kind of tensor: the largest error, and its spread over
                                   orders of the sums and over other random models of the same shape
    python bf16_floor.py --check   compares with the tolerances in test_olmo2.c

The models of the dumps are computed in float64 as always, but every tensor that train_olmo2.cu stores in bf16
is rounded, and so is its gradient. What remains is the error that no such program can avoid. A tolerance
below it would be impossible to meet; a tolerance several times as large would let mistakes through. Errors
are defined as in test_olmo2.c for bf16, ||got - reference|| / ||reference||, for the worst tensor of a kind.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import dump  # before torch: it selects torch's code path
import numpy as np
import olmo2
import torch
from torch import Tensor

TEST = dump.HERE.parent.parent / "test_olmo2.c"
Rounding = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor]
HIGHEST_SHARE = 3.0  # the largest tolerance, as a multiple of the floor


def to_bf16(x: Tensor) -> Tensor:
    """Rounds to the nearest bf16, ties to even, by way of fp32, which a GPU uses for its sums."""
    return x.float().bfloat16().double()


def after_other_sums(seed: int) -> Rounding:
    """The same for a sum in fp32 in some other order: off by a few units of its last place."""
    random = torch.Generator().manual_seed(seed)

    def rounded(x: Tensor) -> Tensor:
        return to_bf16(x * (1 + 3e-7 * torch.randn(x.shape, generator=random, dtype=x.dtype)))

    return rounded


def exact(x: Tensor) -> Tensor:
    return x


# ---------------------------------------------------------------------------------------------
# the model as train_olmo2.cu stores it


def beginning_with(prefix: str, tensors: Tensors) -> Tensors:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


class Stored(torch.autograd.Function):
    """A tensor in memory. The gradients of all its readers are summed in `dy`, which is stored as well. The
    gradient of the residual stream is stored too: one product per branch adds to it (beta = 1), and the
    result is rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Rounding) -> Tensor:
        ctx.rounded = rounded
        return rounded(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return ctx.rounded(dy), None


def heads(x: Tensor, HS: int) -> Tensor:
    """(B, T, heads * HS) -> (B, heads, T, HS)"""
    return x.unflatten(-1, (-1, HS)).transpose(1, 2)


def scores(q: Tensor, k: Tensor, HS: int) -> Tensor:
    """(B, NH, T, T), -inf where the key comes after the query"""
    q, k = heads(q, HS), heads(k, HS)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (q @ k.transpose(2, 3) / math.sqrt(HS)).masked_fill(future, -math.inf)


def attention_backward(
    d_o: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, HS: int
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv as in flash attention: p is recomputed from lse, and the mean of dp is do . o, with the
    stored o. lse (B, NH, T, 1)."""
    d_o, o, qh, kh, vh = (heads(x, HS) for x in (d_o, o, q, k, v))
    group = qh.shape[1] // kh.shape[1]
    kh, vh = (x.repeat_interleave(group, dim=1) for x in (kh, vh))
    p = (scores(q, k, HS) - lse).exp()
    ds = p * (d_o @ vh.transpose(2, 3) - (d_o * o).sum(-1, keepdim=True)) / math.sqrt(HS)
    dq, dk, dv = ds @ kh, ds.transpose(2, 3) @ qh, p.transpose(2, 3) @ d_o
    dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv))
    return dq.transpose(1, 2).flatten(2), dk.transpose(1, 2).flatten(2), dv.transpose(1, 2).flatten(2)


class Attention(torch.autograd.Function):
    """Its output is stored, because the backward reads it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, HS: int, rounded: Rounding) -> Tensor:
        o = rounded(olmo2.attention(q, k, v, HS))
        ctx.save_for_backward(q, k, v, o)
        ctx.HS, ctx.rounded = HS, rounded
        return o

    @staticmethod
    def backward(ctx: Any, d_o: Tensor) -> Any:
        q, k, v, o = ctx.saved_tensors
        lse = scores(q, k, ctx.HS).logsumexp(-1, keepdim=True)
        return (*attention_backward(ctx.rounded(d_o), q, k, v, o, lse, ctx.HS), None, None)


def stored_model(rounded: Rounding) -> types.ModuleType:
    """olmo2.py, with everything rounded that train_olmo2.cu stores (its struct Activations)."""

    def stored(x: Tensor) -> Tensor:
        return Stored.apply(x, rounded)

    def weight(w: Tensor) -> Tensor:
        """Rounded for its readers; its gradient and the updated copy are not rounded."""
        return w + (rounded(w) - w).detach()

    def layer(x: Tensor, weights: Tensors, c: olmo2.Config) -> Tensors:
        w = {name[: -len(".weight")]: weight(t) for name, t in weights.items()}
        a = {"x": x}
        a["q_raw"] = stored(x @ w["self_attn.q_proj"].T)
        a["k_raw"] = stored(x @ w["self_attn.k_proj"].T)
        a["v"] = stored(x @ w["self_attn.v_proj"].T)
        a["q_normed"] = olmo2.rmsnorm(a["q_raw"], w["self_attn.q_norm"], c.rms_eps)
        a["k_normed"] = olmo2.rmsnorm(a["k_raw"], w["self_attn.k_norm"], c.rms_eps)
        a["q"] = stored(olmo2.rope(a["q_normed"], c.HS, c.rope_theta))
        a["k"] = stored(olmo2.rope(a["k_normed"], c.HS, c.rope_theta))
        a["attention"] = Attention.apply(a["q"], a["k"], a["v"], c.HS, rounded)
        a["o"] = stored(a["attention"] @ w["self_attn.o_proj"].T)
        a["o_normed"] = olmo2.rmsnorm(a["o"], w["post_attention_layernorm"], c.rms_eps)
        a["h"] = stored(x + a["o_normed"])
        a["gate"] = stored(a["h"] @ w["mlp.gate_proj"].T)
        a["up"] = stored(a["h"] @ w["mlp.up_proj"].T)
        a["act"] = stored(olmo2.swiglu(a["gate"], a["up"]))
        a["down"] = stored(a["act"] @ w["mlp.down_proj"].T)
        a["down_normed"] = olmo2.rmsnorm(a["down"], w["post_feedforward_layernorm"], c.rms_eps)
        a["y"] = stored(a["h"] + a["down_normed"])
        return a

    def forward(p: Tensors, c: olmo2.Config, tokens: Tensor) -> Tensors:
        activations: Tensors = {}
        x = stored(p["model.embed_tokens.weight"][tokens])
        for l in range(c.L):
            a = layer(x, beginning_with(f"model.layers.{l}.", p), c)
            x = a.pop("y")
            activations.update({f"layers.{l}.{name}": t for name, t in a.items()})
        activations[f"layers.{c.L}.x"] = x
        activations["hidden"] = stored(olmo2.rmsnorm(x, weight(p["model.norm.weight"]), c.rms_eps))
        activations["logits"] = stored(activations["hidden"] @ weight(p["lm_head.weight"]).T)
        return activations

    module = types.ModuleType("stored_model")
    sys.modules["stored_model"] = module  # dataclasses look up their module
    exec(compile(Path(olmo2.__file__).read_text(), "stored_model", "exec"), module.__dict__)
    module.__dict__["forward"] = forward  # its Trainer then calls this one
    return module


# ---------------------------------------------------------------------------------------------
# each backward by itself, in the order of test_layers in test_olmo2.c


def rmsnorm_backward(dy: Tensor, x: Tensor, w: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    u, du = x * rstd, w * dy
    return rstd * (du - u * (du * u).mean(-1, keepdim=True)), (dy * u).sum((0, 1))


def rstd(x: Tensor, eps: float) -> Tensor:
    return 1 / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def gradient(y: Tensor, x: Tensor, dy: Tensor) -> Tensor:
    return torch.autograd.grad(y, x, dy, retain_graph=True)[0]


def outer(dy: Tensor, x: Tensor) -> Tensor:
    """dW (O, I) from dy (B, T, O) and x (B, T, I)"""
    return dy.flatten(0, 1).T @ x.flatten(0, 1)


def layer_backward(
    c: olmo2.Config, a: Tensors, f: Tensors, d: Tensors, dy: Tensor, w: Tensors, rounded: Rounding
) -> tuple[Tensors, Tensors]:
    """Gradients of the activations and weights of a layer. From the reference: a, its activations; d, their
    gradients; dy, the gradient of its output. From the program's own forward: f, its activations."""
    da, dw = {"down_normed": dy, "o_normed": d["h"]}, {}
    w = {name[: -len(".weight")]: t for name, t in w.items()}

    def norm(part: str, name: str, incoming: Tensor) -> None:
        da[part], dw[name] = rmsnorm_backward(incoming, a[part], w[name], rstd(f[part], c.rms_eps))

    # feed-forward branch
    norm("down", "post_feedforward_layernorm", dy)
    da["act"] = d["down"] @ w["mlp.down_proj"]
    gate, up = a["gate"].clone().requires_grad_(), a["up"].clone().requires_grad_()
    act = olmo2.swiglu(gate, up)
    da["gate"], da["up"] = gradient(act, gate, d["act"]), gradient(act, up, d["act"])
    da["h"] = rounded(dy + d["up"] @ w["mlp.up_proj"]) + d["gate"] @ w["mlp.gate_proj"]

    # attention branch
    norm("o", "post_attention_layernorm", d["h"])
    da["attention"] = d["o"] @ w["self_attn.o_proj"]
    lse = scores(f["q"], f["k"], c.HS).logsumexp(-1, keepdim=True)
    da["q"], da["k"], da["v"] = attention_backward(
        d["attention"], a["q"], a["k"], a["v"], a["attention"], lse, c.HS
    )
    for part in ("q", "k"):
        flat = torch.zeros_like(a[part], requires_grad=True)  # RoPE is linear: any x will do
        turned = gradient(olmo2.rope(flat, c.HS, c.rope_theta), flat, d[part])
        norm(f"{part}_raw", f"self_attn.{part}_norm", turned)
    da["x"] = d["h"]
    for part, name in (("v", "v_proj"), ("k_raw", "k_proj"), ("q_raw", "q_proj")):
        da["x"] = rounded(da["x"] + d[part] @ w[f"self_attn.{name}"])

    for name, y, x in (
        ("mlp.down_proj", "down", "act"), ("mlp.gate_proj", "gate", "h"), ("mlp.up_proj", "up", "h"),
        ("self_attn.o_proj", "o", "attention"), ("self_attn.q_proj", "q_raw", "x"),
        ("self_attn.k_proj", "k_raw", "x"), ("self_attn.v_proj", "v", "x"),
    ):  # fmt: skip
        dw[name] = outer(d[y], a[x])
    return {name: rounded(t) for name, t in da.items()}, {f"{name}.weight": t for name, t in dw.items()}


def layer_gradients(model: dump.Model, reference: Tensors, forward: Tensors, rounded: Rounding) -> Tensors:
    """What each backward computes from the reference's inputs and output gradient, both stored in bf16. As in
    the test, 1 / rms and logsumexp come from the program's own forward."""
    c = model.config
    out: Tensors = {}
    r = {name: rounded(t) if t.is_floating_point() else t for name, t in reference.items()}
    w = beginning_with("parameter.", r)
    last, norm = f"layers.{c.L}.x", "model.norm.weight"
    logits = r["logits"].clone().requires_grad_()
    logprobs, lse = olmo2.classify(logits, reference["labels"])
    ce, z_loss = olmo2.objective(logprobs, lse, reference["weights"], dump.TRAINING.z)
    out["d.logits"] = rounded(gradient(ce + z_loss, logits, torch.ones_like(ce)))
    out["d.hidden"] = rounded(r["d.logits"] @ w["lm_head.weight"])
    out["gradient.lm_head.weight"] = outer(r["d.logits"], r["hidden"])
    dx, out[f"gradient.{norm}"] = rmsnorm_backward(
        r["d.hidden"], r[last], w[norm], rstd(forward[last], c.rms_eps)
    )
    out[f"d.{last}"] = rounded(dx)
    for l in reversed(range(c.L)):
        da, dw = layer_backward(
            c, beginning_with(f"layers.{l}.", r), beginning_with(f"layers.{l}.", forward),
            beginning_with(f"d.layers.{l}.", r), r[f"d.layers.{l + 1}.x"],
            beginning_with(f"model.layers.{l}.", w), rounded,
        )  # fmt: skip
        out.update({f"d.layers.{l}.{name}": t for name, t in da.items()})
        out.update({f"gradient.model.layers.{l}.{name}": t for name, t in dw.items()})
    table = torch.zeros_like(w["model.embed_tokens.weight"])
    tokens = reference["tokens"].long()
    out["gradient.model.embed_tokens.weight"] = table.index_put((tokens,), r["d.layers.0.x"], accumulate=True)
    return out


# ---------------------------------------------------------------------------------------------
# the floor of a model

KINDS = {
    "activations": r"layers\..*|hidden|logits",
    "losses, logprobs, norms, lr": r"logprobs|lse|(steps\.)?(ce|z_loss|gradient_norm)|steps\.lr",
    "gradients of one layer": "",  # everything that layer_gradients returns
    "gradients of the whole model": r"gradient\..*",
    "parameters after 1 step": r"after1\..*",
    "parameters after 10 steps": r"after10\..*",
}
Worst = dict[str, tuple[float, str]]  # by kind: the largest error, and its tensor


def tensors(arrays: dict[str, np.ndarray]) -> Tensors:
    out = {}
    for name, array in arrays.items():
        kind = np.float64 if array.dtype == np.float32 else np.int64
        out[name] = torch.from_numpy(array.astype(kind))
    return out


def worst(got: Tensors, reference: Tensors) -> tuple[float, str]:
    def error(name: str) -> float:
        relative = ((got[name] - reference[name]).norm() / reference[name].norm()).item()
        return math.inf if math.isnan(relative) else relative

    name = max(got, key=error)
    return error(name), name


def floor(model: dump.Model, rounded: Rounding) -> Worst:
    reference = tensors(dump.compute(model))
    got = tensors(dump.compute(model, stored_model(rounded)))
    out = {}
    for kind, pattern in KINDS.items():
        some = {name: t for name, t in got.items() if pattern and re.fullmatch(pattern, name)}
        if kind == "activations":  # a tensor that is not stored is rounded when the test reads it
            some = {name: rounded(t) for name, t in some.items()}
        out[kind] = worst(some or layer_gradients(model, reference, got, rounded), reference)
    return out


# ---------------------------------------------------------------------------------------------


def tolerances() -> dict[str, float]:
    """The bf16 column of the table in test_olmo2.c, by kind."""
    table = re.search(r"kinds\[\] = \{(.*?)\n\};", TEST.read_text(), re.DOTALL)
    assert table is not None, f"{TEST} has no table of kinds"
    rows = re.findall(r'\{ "([^"]+)", *([^,]+), *([^,]+),', table[1])
    return {name: float(bf16) for name, _, bf16 in rows}


def check(floors: dict[str, Worst]) -> int:
    passed = failed = 0

    def report(ok: bool, line: str) -> None:
        nonlocal passed, failed
        passed, failed = passed + ok, failed + (not ok)
        print(f"{line}  {'ok' if ok else 'FAILED'}")

    allowed = tolerances()
    report(list(allowed) == list(KINDS), f"{TEST.name} has a tolerance for each of the {len(KINDS)} kinds")
    for kind in KINDS:
        least, tolerance = max(f[kind][0] for f in floors.values()), allowed.get(kind, math.nan)
        line = f"{kind:30} floor {least:7.1e}  allowed {tolerance:7.1e}, {tolerance / least:4.1f} times"
        report(least <= tolerance <= HIGHEST_SHARE * least, line)
    for name, model in dump.MODELS.items():
        largest = max(error for error, _ in floor(model, exact).values())
        report(largest < 1e-6, f"{name}: without rounding, the same numbers as olmo2.py: {largest:7.1e}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def spread(kind: str, samples: list[Worst]) -> str:
    errors = [sample[kind][0] for sample in samples]
    return f"{min(errors):7.1e} .. {max(errors):7.1e}" if errors else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the tolerances of test_olmo2.c")
    parser.add_argument("--samples", type=int, default=8, help="samples per spread (8)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    floors = {name: floor(model, to_bf16) for name, model in dump.MODELS.items()}
    if arguments.check:
        return check(floors)
    for name, model in dump.MODELS.items():
        sums = [floor(model, after_other_sums(i)) for i in range(arguments.samples)]
        models = [floor(replace(model, seed=100 + i), to_bf16) for i in range(arguments.samples)]
        print(f"{name:30}   floor   other order of sums         other models    worst tensor")
        for kind, (error, tensor) in floors[name].items():
            print(f"{kind:30} {error:7.1e}   {spread(kind, sums)}  {spread(kind, models)}  {tensor}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
