"""Checks olmo2.py against transformers and OLMo-core, and the dumps against olmo2.py.

Both libraries run in float64, so the comparison is of the mathematics, not of rounding. The last line is "N
passed, N failed"; the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import sys
import types
from dataclasses import asdict
from pathlib import Path

import dump  # before torch: it selects torch's code path
import numpy as np
import olmo2
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import Olmo2Config, Olmo2ForCausalLM

try:
    from olmo_core.nn.attention import AttentionBackendName
    from olmo_core.nn.feed_forward import FeedForwardConfig
    from olmo_core.nn.lm_head import LMOutputWithLoss
    from olmo_core.nn.rope import RotaryEmbedding
    from olmo_core.nn.transformer import TransformerBlockType, TransformerConfig
    from olmo_core.optim import CosWithWarmup, SkipStepAdamW

    OLMO_CORE = True
except ImportError:
    OLMO_CORE = False

IGNORED = -100  # in both libraries, the label of a position that has none
passed = failed = 0


def check(name: str, reached: float, allowed: float, at_least: bool = False) -> None:
    """One line of the report. NaN fails in either direction."""
    global passed, failed
    ok = reached >= allowed if at_least else reached <= allowed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{name:64} {reached:9.1e} {'>=' if at_least else '<='} {allowed:7.0e}  {'ok' if ok else 'FAILED'}")


def difference(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|; infinite if a tensor is not finite or the reference is all zero."""
    a, b = a.detach().double(), b.detach().double()
    error, scale = (a - b).abs().max().item(), b.abs().max().item()
    return error / scale if scale > 0 and np.isfinite(error) else np.inf


def largest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(difference(a[name], b[name]) for name in b) if set(a) == set(b) else np.inf


class StayInDouble(TorchFunctionMode):
    """The libraries compute norms, rotations and the classifier in fp32 even if the rest is float64. Here
    float64 stays float64, and the sines of fp32 angles are computed in float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        double = bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float64
        if double and (func is Tensor.float or func is Tensor.to and args[1:] == (torch.float32,)):
            return args[0]
        if func in (Tensor.sin, Tensor.cos):
            args = (args[0].double(),)
        return func(*args, **(kwargs or {}))


def in_double(module: torch.nn.Module, parameters: dict[str, Tensor]) -> torch.nn.Module:
    """Loads these parameters into the module, in float64; buffers (RoPE's frequencies) stay unchanged."""
    for p in module.parameters():
        p.data = p.data.double()
    module.load_state_dict(parameters, strict=True)
    return module.train()


def reference(model: dump.Model) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs of the dump, and what olmo2.py computes from them in float64."""
    rng = np.random.Generator(np.random.PCG64(model.seed))
    parameters = dump.initial_parameters(model, rng)
    tokens = torch.from_numpy(rng.integers(0, model.config.V, (model.B, model.T)))
    mask = torch.from_numpy(rng.random((model.B, model.T)) < 0.8)
    labels = olmo2.shift(tokens, mask)
    N = (labels != olmo2.NO_TOKEN).sum()
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    logits = olmo2.forward(leaves, model.config, tokens)["logits"]
    weights = (labels != olmo2.NO_TOKEN) / N.double()
    ce, z_loss = olmo2.objective(*olmo2.classify(logits, labels), weights, dump.TRAINING.z)
    gradients = torch.autograd.grad(ce + z_loss, list(leaves.values()))
    ignored = torch.where(labels == olmo2.NO_TOKEN, IGNORED, labels)
    inputs = {"tokens": tokens, "mask": mask, "labels": ignored, "N": N}
    results = {"logits": logits, "ce": ce, "z_loss": z_loss, **dict(zip(leaves, gradients))}
    return {**inputs, **parameters}, results


def parameters_of(model: dump.Model, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in olmo2.parameter_shapes(model.config)}


# ---------------------------------------------------------------------------------------------
# transformers


def transformers_model(c: olmo2.Config, parameters: dict[str, Tensor], T: int) -> Olmo2ForCausalLM:
    config = Olmo2Config(
        vocab_size=c.V, hidden_size=c.C, intermediate_size=c.F, num_hidden_layers=c.L,
        num_attention_heads=c.NH, num_key_value_heads=c.NKV, head_dim=c.HS, max_position_embeddings=T,
        rms_norm_eps=c.rms_eps, rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        pad_token_id=None, eos_token_id=None, tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    return in_double(Olmo2ForCausalLM(config), parameters)


def test_transformers(name: str, model: dump.Model) -> None:
    inputs, expected = reference(model)
    theirs = transformers_model(model.config, parameters_of(model, inputs), model.T)
    with StayInDouble():
        # First its own loss: it shifts the labels and averages by itself.
        marked = torch.where(inputs["mask"], inputs["tokens"], IGNORED)
        loss = theirs(inputs["tokens"], labels=marked).loss
        check(f"{name} transformers: cross-entropy", difference(loss, expected["ce"]), 1e-12)
        logits = theirs(inputs["tokens"]).logits
        check(f"{name} transformers: logits", difference(logits, expected["logits"]), 1e-12)
        ce = functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), reduction="sum")
        z_loss = dump.TRAINING.z * logits.logsumexp(-1)[inputs["labels"] != IGNORED].square().sum()
        ((ce + z_loss) / inputs["N"]).backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    check(f"{name} transformers: gradients", largest(gradients, parameters_of(model, expected)), 1e-11)


# ---------------------------------------------------------------------------------------------
# OLMo-core


def olmo_core_name(name: str) -> str:
    """Translates a Hugging Face name to OLMo-core's."""
    for theirs, ours in {
        "embeddings.": "model.embed_tokens.",
        "lm_head.w_out.": "lm_head.",
        "lm_head.norm.": "model.norm.",
        "blocks.": "model.layers.",
        "attention.w_out.": "self_attn.o_proj.",
        "attention.q_norm.": "self_attn.q_norm.",
        "attention.k_norm.": "self_attn.k_norm.",
        "attention.w_q.": "self_attn.q_proj.",
        "attention.w_k.": "self_attn.k_proj.",
        "attention.w_v.": "self_attn.v_proj.",
        "attention_norm.": "post_attention_layernorm.",
        "feed_forward.w1.": "mlp.gate_proj.",
        "feed_forward.w3.": "mlp.up_proj.",
        "feed_forward.w2.": "mlp.down_proj.",
        "feed_forward_norm.": "post_feedforward_layernorm.",
    }.items():
        name = name.replace(ours, theirs)
    return name


def olmo_core_model(c: olmo2.Config, parameters: dict[str, Tensor]) -> torch.nn.Module:
    config = TransformerConfig.llama_like(
        d_model=c.C, vocab_size=c.V, n_layers=c.L, n_heads=c.NH, n_kv_heads=c.NKV, head_dim=c.HS,
        qk_norm=True, layer_norm_eps=c.rms_eps, rope_theta=int(c.rope_theta),
        block_name=TransformerBlockType.reordered_norm, attn_backend=AttentionBackendName.torch,
        feed_forward=FeedForwardConfig(hidden_size=c.F, bias=False),
    )  # fmt: skip
    return in_double(config.build(), {olmo_core_name(name): p for name, p in parameters.items()})


def olmo_core_loss(theirs: torch.nn.Module, tokens: Tensor, labels: Tensor, N: Tensor) -> LMOutputWithLoss:
    return theirs(
        tokens, labels=labels, ignore_index=IGNORED, loss_reduction="sum", z_loss_multiplier=dump.TRAINING.z,
        loss_div_factor=N, return_logits=True,
    )  # fmt: skip


def test_olmo_core(name: str, model: dump.Model) -> None:
    inputs, expected = reference(model)
    theirs = olmo_core_model(model.config, parameters_of(model, inputs))
    with StayInDouble():
        output = olmo_core_loss(theirs, inputs["tokens"], inputs["labels"], inputs["N"])
        output.loss.backward()
    check(f"{name} OLMo-core: logits", difference(output.logits, expected["logits"]), 1e-12)
    check(f"{name} OLMo-core: cross-entropy", difference(output.ce_loss, expected["ce"]), 1e-12)
    check(f"{name} OLMo-core: z-loss", difference(output.z_loss, expected["z_loss"]), 1e-12)
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    wanted = {olmo_core_name(n): g for n, g in parameters_of(model, expected).items()}
    check(f"{name} OLMo-core: gradients", largest(gradients, wanted), 1e-11)


def test_olmo_core_rope() -> None:
    """Every position of a full sequence, at the head sizes of the family."""
    for HS in (16, 84, 128, 208):
        x = torch.from_numpy(np.random.Generator(np.random.PCG64(3)).standard_normal((1, 4096, 2, HS)))
        with StayInDouble():
            theirs, _ = RotaryEmbedding(head_size=HS, theta=500000)(x, x, head_first=False)
        ours = olmo2.rope(x.flatten(2), HS, 500000.0)
        check(f"OLMo-core: RoPE, head size {HS}, 4096 positions", difference(ours, theirs.flatten(2)), 1e-12)


def test_updates(name: str, model: dump.Model, optimizer_class: type, allowed: float) -> None:
    """The ten updates of the dump, computed by OLMo-core's model and schedule and a library's optimizer. The
    dump is F32, a distance of 6e-8. SkipStepAdamW corrects its bias in fp32, and an element whose gradient
    nearly cancels makes this error 50 times larger."""
    data, s = dump.compute(model), dump.TRAINING
    rng = np.random.Generator(np.random.PCG64(model.seed))
    theirs = olmo_core_model(model.config, dump.initial_parameters(model, rng))
    embedding = [p for n, p in theirs.named_parameters() if n == "embeddings.weight"]
    others = [p for n, p in theirs.named_parameters() if n != "embeddings.weight"]
    groups = [{"params": embedding, "weight_decay": 0.0}, {"params": others}]
    optimizer = optimizer_class(
        groups, lr=s.peak_lr, betas=(s.beta1, s.beta2), eps=s.eps, weight_decay=s.weight_decay
    )
    schedule = CosWithWarmup(warmup=s.warmup, alpha_f=s.final_fraction)
    error = {"ce": 0.0, "gradient_norm": 0.0, "lr": 0.0}
    for step in range(dump.STEPS):
        tokens = torch.from_numpy(data["steps.tokens"][step].astype(np.int64))
        mask = torch.from_numpy(data["steps.mask"][step]).bool()
        labels = functional.pad(torch.where(mask, tokens, IGNORED)[:, :, 1:], (0, 1), value=IGNORED)
        N = (labels != IGNORED).sum()
        optimizer.zero_grad()
        ce = 0.0
        with StayInDouble():
            for micro in range(dump.MICRO_BATCHES):
                output = olmo_core_loss(theirs, tokens[micro], labels[micro], N)
                output.loss.backward()
                ce += output.ce_loss
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), s.clip)
        lr = schedule.get_lr(s.peak_lr, step + 1, s.total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if isinstance(optimizer, SkipStepAdamW):
            optimizer.latest_loss, optimizer.latest_grad_norm = ce, norm
        optimizer.step()
        for key, reached in {"ce": ce, "gradient_norm": norm, "lr": lr}.items():
            wanted = torch.tensor(data[f"steps.{key}"][step])
            error[key] = max(error[key], difference(torch.as_tensor(reached), wanted))
        if step + 1 in (1, dump.STEPS):
            wanted = {
                olmo_core_name(n): torch.from_numpy(data[f"after{step + 1}.{n}"])
                for n in olmo2.parameter_shapes(model.config)
            }
            reached = largest(dict(theirs.named_parameters()), wanted)
            check(f"{name} {optimizer_class.__name__}: parameters after {step + 1}", reached, allowed)
    for key, reached in error.items():
        check(f"{name} {optimizer_class.__name__}: {key} of every step", reached, allowed)


# ---------------------------------------------------------------------------------------------
# the dumps

# One mistake each: its name, a piece of olmo2.py, and its replacement.
MUTATIONS = [
    (
        "no QK-norm",
        'rmsnorm(a["q_raw"], w["self_attn.q_norm"], c.rms_eps)',
        'a["q_raw"] + 0 * w["self_attn.q_norm"]',
    ),
    (
        "per-head QK-norm",
        'rmsnorm(a["k_raw"], w["self_attn.k_norm"], c.rms_eps)',
        'rmsnorm(a["k_raw"].unflatten(2, (-1, c.HS)), w["self_attn.k_norm"].view(-1, c.HS), 1e-6).flatten(2)',
    ),
    (
        "QK-norm after RoPE",
        'rope(a["q_normed"], c.HS, c.rope_theta)',
        'rmsnorm(rope(a["q_raw"], c.HS, c.rope_theta), w["self_attn.q_norm"], c.rms_eps) + 0 * a["q_normed"]',
    ),
    (
        "interleaved RoPE",
        "x.unflatten(-1, (-1, HS)).chunk(2, dim=-1)",
        "(x.unflatten(-1, (-1, HS))[..., i::2] for i in (0, 1))",
    ),
    ("theta 10000", "1.0 / theta **", "1.0 / 10000.0 **"),
    ("eps 1e-5", "keepdim=True) + eps", "keepdim=True) + 10 * eps"),
    ("pre-norm", 'a["q_raw"] = x @', 'a["q_raw"] = rmsnorm(x, torch.ones(c.C), c.rms_eps) @'),
    ("no norm on the branch output", 'a["h"] = x + a["o_normed"]', 'a["h"] = x + a["o"] + 0 * a["o_normed"]'),
    ("up and gate swapped", 'swiglu(a["gate"], a["up"])', 'swiglu(a["up"], a["gate"])'),
    ("missing 1/sqrt(HS)", " / math.sqrt(HS)", ""),
    ("wrong query group", "x.repeat_interleave(group, dim=2)", "x.repeat(1, 1, group, 1)"),
    (
        "tied embeddings",
        'activations["hidden"] @ p["lm_head.weight"].T',
        'activations["hidden"] @ (p["model.embed_tokens.weight"] + 0 * p["lm_head.weight"]).T',
    ),
    ("z-loss gradient missing", "weights * lse.square()", "weights * lse.detach().square()"),
    ("causal mask off by one", "triu(1)", "triu(2)"),
    ("= for += in weight gradients", "gradients[name] += g", "gradients[name] = g"),
    (
        "decay on embeddings",
        '0.0 if name == "model.embed_tokens.weight" else s.weight_decay',
        "s.weight_decay",
    ),
    (
        "no decay on norms",
        'if name == "model.embed_tokens.weight"',
        'if name[6:11] == "embed" or "norm" in name',
    ),
    ("no bias correction", "= 1 - s.beta1**t, 1 - s.beta2**t", "= 1.0, 1.0"),
    (
        "AdamW epsilon before the correction",
        "correction2) + s.eps)",
        "correction2) + s.eps / math.sqrt(correction2))",
    ),
    ("clip after the update", "scale * gradients[name]", "gradients[name]"),
    ("first update at step 0 of the schedule", "(s, self.step_number)", "(s, self.step_number - 1)"),
    (
        "N of each micro-batch",
        "(labels != NO_TOKEN).sum().double()",
        "(labels != NO_TOKEN).sum((1, 2), True) / 2",
    ),
    ("labels not shifted", "mask[:, 1:], tokens[:, 1:]", "mask[:, 1:], tokens[:, :-1]"),
    ("padding columns left out of the softmax", "logits.logsumexp(", "logits[..., :-1].logsumexp("),
]


def test_dumps() -> None:
    for name, model in dump.MODELS.items():
        path = dump.HERE / f"dump_{name}.safetensors"
        same = dump.compare(path, dump.serialize(model))
        check(f"{path.name} equals dump.py's output", 0.0 if same else np.inf, 0)


def test_mutations() -> None:
    """Any single mistake must change a tensor of the dumps by far more than test_olmo2.c allows."""
    source = Path(olmo2.__file__).read_text()
    correct = {name: dump.compute(model) for name, model in dump.MODELS.items()}
    for title, piece, replacement in MUTATIONS:
        assert source.count(piece) == 1, f"{title}: olmo2.py must contain {piece!r} once"
        mutant = types.ModuleType("mutant")
        sys.modules["mutant"] = mutant  # dataclasses look up their module
        exec(compile(source.replace(piece, replacement), "mutant", "exec"), mutant.__dict__)
        shift = 0.0
        for name, model in dump.MODELS.items():
            for key, value in dump.compute(model, mutant).items():
                if value.dtype == np.float32:
                    shift = max(
                        shift, difference(torch.from_numpy(value), torch.from_numpy(correct[name][key]))
                    )
        check(f"mutation seen: {title}", shift, 1e-2, at_least=True)


def main() -> int:
    torch.set_num_threads(1)
    for name, model in dump.MODELS.items():
        test_transformers(name, model)
    if OLMO_CORE:
        for name, model in dump.MODELS.items():
            test_olmo_core(name, model)
            test_updates(name, model, torch.optim.AdamW, 1e-7)
            test_updates(name, model, SkipStepAdamW, 1e-5)
        test_olmo_core_rope()
    else:
        print("skipped: OLMo-core (the package ai2-olmo-core is not installed)")
    test_dumps()
    test_mutations()
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
