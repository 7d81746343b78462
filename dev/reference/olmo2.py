"""OLMo 2 in plain PyTorch: the model, its loss and a training step, in any floating-point type.

The order and the names are those of train_olmo2.c, with autograd in place of the backward functions. Shapes:
B batch, T sequence length, C channels, L layers, NH query heads, NKV key/value heads, HS head size, F
feed-forward hidden size, V vocabulary rows. A linear layer's weight is (outputs, inputs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NO_TOKEN = 0xFFFFFFFF  # the label of a position that has none


@dataclass(frozen=True)
class Config:
    C: int
    L: int
    NH: int
    NKV: int
    HS: int
    F: int
    V: int
    rms_eps: float = 1e-6
    rope_theta: float = 500000.0


def parameter_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Every parameter under its Hugging Face name, in the order of llmc/parameters.h."""
    Q, KV = c.NH * c.HS, c.NKV * c.HS
    layer = {
        "self_attn.q_proj": (Q, c.C),
        "self_attn.k_proj": (KV, c.C),
        "self_attn.v_proj": (KV, c.C),
        "self_attn.o_proj": (c.C, Q),
        "self_attn.q_norm": (Q,),
        "self_attn.k_norm": (KV,),
        "post_attention_layernorm": (c.C,),
        "mlp.gate_proj": (c.F, c.C),
        "mlp.up_proj": (c.F, c.C),
        "mlp.down_proj": (c.C, c.F),
        "post_feedforward_layernorm": (c.C,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.V, c.C)}
    for l in range(c.L):
        shapes.update({f"model.layers.{l}.{name}.weight": shape for name, shape in layer.items()})
    shapes["model.norm.weight"] = (c.C,)
    shapes["lm_head.weight"] = (c.V, c.C)
    return shapes


# ---------------------------------------------------------------------------------------------
# layers


def rmsnorm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x (..., C), w (C): w x / sqrt(mean(x^2) + eps), for each row."""
    return w * (x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps))


def rope(x: Tensor, HS: int, theta: float) -> Tensor:
    """x (B, T, heads * HS): rotates channels i and i + HS/2 of a head at position t by t theta^(-2i/HS)."""
    T = x.shape[1]
    # The angle is a product in fp32, whatever the type of x: OLMo 2 was trained with these angles.
    frequency = 1.0 / theta ** (torch.arange(0, HS, 2, dtype=torch.float32) / HS)
    angle = torch.outer(torch.arange(T, dtype=torch.float32), frequency).to(x.dtype)
    cosine, sine = angle.cos()[:, None, :], angle.sin()[:, None, :]
    a, b = x.unflatten(-1, (-1, HS)).chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, HS: int) -> Tensor:
    """q (B, T, NH*HS), k and v (B, T, NKV*HS) -> (B, T, NH*HS). Query head h reads head h // (NH / NKV)."""
    q, k, v = (x.unflatten(-1, (-1, HS)) for x in (q, k, v))
    T, group = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(HS)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    p = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return torch.einsum("bhij,bjhd->bihd", p, v).flatten(2)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate * torch.sigmoid(gate) * up


# ---------------------------------------------------------------------------------------------
# the model


def layer(x: Tensor, w: dict[str, Tensor], c: Config) -> dict[str, Tensor]:
    """One layer's activations by name, from its input x (B, T, C) to its output y."""
    a = {"x": x}
    # attention branch: h = x + rmsnorm(attention(x))
    a["q_raw"] = x @ w["self_attn.q_proj"].T
    a["k_raw"] = x @ w["self_attn.k_proj"].T
    a["v"] = x @ w["self_attn.v_proj"].T
    a["q_normed"] = rmsnorm(a["q_raw"], w["self_attn.q_norm"], c.rms_eps)  # the whole row, all heads together
    a["k_normed"] = rmsnorm(a["k_raw"], w["self_attn.k_norm"], c.rms_eps)
    a["q"] = rope(a["q_normed"], c.HS, c.rope_theta)
    a["k"] = rope(a["k_normed"], c.HS, c.rope_theta)
    a["attention"] = attention(a["q"], a["k"], a["v"], c.HS)
    a["o"] = a["attention"] @ w["self_attn.o_proj"].T
    a["o_normed"] = rmsnorm(a["o"], w["post_attention_layernorm"], c.rms_eps)
    a["h"] = x + a["o_normed"]
    # feed-forward branch: y = h + rmsnorm(W_down (silu(W_gate h) * W_up h))
    a["gate"] = a["h"] @ w["mlp.gate_proj"].T
    a["up"] = a["h"] @ w["mlp.up_proj"].T
    a["act"] = swiglu(a["gate"], a["up"])
    a["down"] = a["act"] @ w["mlp.down_proj"].T
    a["down_normed"] = rmsnorm(a["down"], w["post_feedforward_layernorm"], c.rms_eps)
    a["y"] = a["h"] + a["down_normed"]
    return a


def forward(p: dict[str, Tensor], c: Config, tokens: Tensor) -> dict[str, Tensor]:
    """tokens (B, T) to logits: every activation by name. A layer's output is the next one's `x`."""
    activations: dict[str, Tensor] = {}
    x = p["model.embed_tokens.weight"][tokens]
    for l in range(c.L):
        prefix = f"model.layers.{l}."
        w = {name[len(prefix) : -len(".weight")]: t for name, t in p.items() if name.startswith(prefix)}
        a = layer(x, w, c)
        x = a.pop("y")
        activations.update({f"layers.{l}.{name}": t for name, t in a.items()})
    activations[f"layers.{c.L}.x"] = x
    activations["hidden"] = rmsnorm(x, p["model.norm.weight"], c.rms_eps)
    activations["logits"] = activations["hidden"] @ p["lm_head.weight"].T
    return activations


# ---------------------------------------------------------------------------------------------
# the loss


def shift(tokens: Tensor, mask: Tensor) -> Tensor:
    """labels (B, T): the next token where the mask of that token is set; the last position has none."""
    labels = torch.full_like(tokens, NO_TOKEN)
    labels[:, :-1] = torch.where(mask[:, 1:], tokens[:, 1:], NO_TOKEN)
    return labels


def classify(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """logits (B, T, V), labels (B, T) -> log p(label), 0 without a label, and logsumexp, both (B, T)."""
    lse = logits.logsumexp(dim=-1)
    labelled = labels != NO_TOKEN
    index = torch.where(labelled, labels, 0)
    logprobs = logits.gather(-1, index[..., None])[..., 0] - lse
    return logprobs * labelled, lse


def objective(logprobs: Tensor, lse: Tensor, weights: Tensor, z: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy and z-loss, each a weighted sum over tokens; training minimises their total."""
    return (weights * -logprobs).sum(), z * (weights * lse.square()).sum()


# ---------------------------------------------------------------------------------------------
# the training step


@dataclass(frozen=True)
class Training:
    z: float  # coefficient of the z-loss
    peak_lr: float
    warmup: int  # steps of linear warmup from 0
    total: int  # step at which the cosine ends
    final_fraction: float  # end of the cosine, as a fraction of the peak
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip: float  # largest norm over all gradients


def schedule_lr(s: Training, step: int) -> float:
    """Linear warmup, then a cosine to final_fraction of the peak. The first update is step 1."""
    if step < s.warmup:
        return s.peak_lr * step / s.warmup
    end = s.final_fraction * s.peak_lr
    done = min(1.0, (step - s.warmup) / (s.total - s.warmup))
    return end + (s.peak_lr - end) * (1 + math.cos(math.pi * done)) / 2


def gradient_norm(gradients: dict[str, Tensor]) -> Tensor:
    return torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()


def adamw(p: Tensor, m: Tensor, v: Tensor, g: Tensor, s: Training, lr: float, decay: float, t: int) -> None:
    """Update t (from 1) of one tensor p and its moments m and v, in place."""
    p *= 1 - lr * decay
    m += (1 - s.beta1) * (g - m)
    v += (1 - s.beta2) * (g * g - v)
    correction1, correction2 = 1 - s.beta1**t, 1 - s.beta2**t
    p -= lr / correction1 * m / (v.sqrt() / math.sqrt(correction2) + s.eps)


class Trainer:
    """The parameters (which it updates in place) and their moments."""

    def __init__(self, parameters: dict[str, Tensor], config: Config, settings: Training) -> None:
        self.parameters, self.config, self.settings, self.step_number = parameters, config, settings, 0
        self.m = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def step(self, tokens: Tensor, mask: Tensor) -> dict[str, float]:
        """One update from micro-batches (M, B, T) of tokens and their label masks."""
        s = self.settings
        self.step_number += 1
        labels = torch.stack([shift(t, m) for t, m in zip(tokens, mask)])
        weights = (labels != NO_TOKEN) / (labels != NO_TOKEN).sum().double()  # 1/N, N over the whole step
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
        gradients = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        losses = []
        for micro in range(len(tokens)):
            logits = forward(leaves, self.config, tokens[micro])["logits"]
            logprobs, lse = classify(logits, labels[micro])
            ce, z = objective(logprobs, lse, weights[micro].to(lse.dtype), s.z)
            for name, g in zip(leaves, torch.autograd.grad(ce + z, list(leaves.values()))):
                gradients[name] += g
            losses.append((ce.item(), z.item()))
        norm = gradient_norm(gradients).item()
        scale = min(1.0, s.clip / (norm + 1e-6))
        lr = schedule_lr(s, self.step_number)
        for name, p in self.parameters.items():
            decay = 0.0 if name == "model.embed_tokens.weight" else s.weight_decay
            adamw(p, self.m[name], self.v[name], scale * gradients[name], s, lr, decay, self.step_number)
        ce, z = (sum(part) for part in zip(*losses))
        return {"ce": ce, "z_loss": z, "gradient_norm": norm, "gradient_scale": scale, "lr": lr}
