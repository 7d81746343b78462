#!/usr/bin/env python3
"""Recomputes the numbers in these pages and checks every formula in them against finite differences.

This file implements each layer as its page writes it: loops over indices, in double. A page must contain
its examples exactly as this file prints them. The functions, tests, mutations, files and pages that a page
names must exist. Standard library only.

    python3 dev/doc/check.py            the last line is "N passed, N failed"
    python3 dev/doc/check.py --print    the examples, as the pages must contain them
"""

from __future__ import annotations

import argparse
import math
import random
import re
import struct
import sys
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

Row = List[float]
Rows = List[Row]

ROOT = Path(__file__).resolve().parents[2]
PAGES = Path(__file__).resolve().parent
passed = failed = 0


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed += ok
    failed += not ok
    if not ok:
        print(f"FAILED {what}")


def close(what: str, got: float, want: float, tolerance: float = 1e-12) -> None:
    check(abs(got - want) <= tolerance * max(1.0, abs(want)), f"{what}: {got!r}, should be {want!r}")


def check_gradient(what: str, f: Callable[[], float], x: Rows, gradient: Rows) -> None:
    """Compares gradient with (f(x + h) - f(x - h)) / 2h for every entry of x. f reads x."""
    h, errors = 1e-5, []
    for x_n, gradient_n in zip(x, gradient):
        for i, kept in enumerate(x_n):
            x_n[i] = kept + h
            above = f()
            x_n[i] = kept - h
            below = f()
            x_n[i] = kept
            errors.append(abs((above - below) / (2 * h) - gradient_n[i]))
    largest = max(abs(g) for gradient_n in gradient for g in gradient_n)
    shapes = [len(r) for r in x] == [len(r) for r in gradient]
    ok = shapes and largest > 0 and all(error <= 1e-7 * largest for error in errors)  # NaN fails
    check(ok, f"{what}: off by {max(errors):.1e}, largest {largest:.1e}")


rng = random.Random(2)


def randoms(n: int, c: int) -> Rows:
    return [[rng.uniform(-1, 1) for _ in range(c)] for _ in range(n)]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b))


def weighted(r: Rows, y: Rows) -> float:
    """sum r y: an objective J whose gradient with respect to y is r."""
    return sum(dot(r_n, y_n) for r_n, y_n in zip(r, y))


def transposed(x: Rows) -> Rows:
    return [list(column) for column in zip(*x)]


def plus(a: Rows, b: Rows) -> Rows:
    return [[x + y for x, y in zip(a_n, b_n)] for a_n, b_n in zip(a, b)]


def show(*values: float) -> str:
    """Six digits each; several numbers in parentheses."""
    text = ", ".join(f"{v + 0.0:.6g}" if abs(v) > 1e-15 else "0" for v in values)
    return text if len(values) == 1 else f"({text})"


# ---------------------------------------------------------------------------------------------
# the 190M model of llmc/olmo2.h. The pages give its bytes for a batch of B = 4 sequences of T = 1024.

B, T = 4, 1024
N = B * T
V = 100352
PRESET = re.findall(r'\{ "190M",([\d, ]+)\}', (ROOT / "llmc/olmo2.h").read_text())[0]
C, L, NH, NKV, HS, F = (int(number) for number in PRESET.split(","))
# the standard deviation of an initial weight: a normal distribution of 0.02, cut at 3 deviations
SIGMA = 0.02 * math.sqrt(1 - 6 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2)))


def size_of(floats: int) -> str:
    size = 4 * floats
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


# ---------------------------------------------------------------------------------------------
# embedding.md


def embedding_forward(table: Rows, tokens: List[int]) -> Rows:
    return [list(table[t]) for t in tokens]


def embedding_backward(dx: Rows, tokens: List[int], vocabulary: int) -> Rows:
    dtable = [[0.0] * len(dx[0]) for _ in range(vocabulary)]
    for n, t in enumerate(tokens):
        for c, value in enumerate(dx[n]):
            dtable[t][c] += value
    return dtable


def page_embedding() -> List[List[str]]:
    tokens, table, r = [2, 0, 2, 3, 2], randoms(5, 3), randoms(5, 3)

    def f() -> float:
        return weighted(r, embedding_forward(table, tokens))

    check_gradient("embedding: table", f, table, embedding_backward(r, tokens, 5))
    one_hot = [[float(t == v) for v in range(5)] for t in tokens]
    close("embedding: dE = P^T dx", weighted(matmul_forward(transposed(one_hot), transposed(r)), table), f())

    tokens, table = [2, 0, 2], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    x, dx = embedding_forward(table, tokens), [[1.0, 0.0], [10.0, 0.0], [100.0, 7.0]]
    dtable = embedding_backward(dx, tokens, 3)
    example = ["V = 3, C = 2, tokens = (2, 0, 2)"]
    example += [f"E_{v} = {show(*table[v])}" for v in range(3)]
    example += [f"x_{n} = {show(*x[n])}   dx_{n} = {show(*dx[n])}" for n in range(3)]
    example += [f"dE_{v} = {show(*dtable[v])}" for v in range(3)]
    size = [
        f"std of an initial weight, 0.02 cut at 3 deviations: {SIGMA:.6f}",
        f"E or dE, V = {V}, C = {C}: {size_of(V * C)}",
        f"kept: the tokens of a batch, N = {N}: {size_of(N)}",
    ]
    return [example, size]


# ---------------------------------------------------------------------------------------------
# rmsnorm.md


def rmsnorm_forward(x: Row, w: Row, eps: float) -> Tuple[Row, float]:
    s = (dot(x, x) / len(x) + eps) ** -0.5
    return [w_c * x_c * s for w_c, x_c in zip(w, x)], s


def rmsnorm_backward(dy: Row, x: Row, w: Row, s: float) -> Tuple[Row, Row]:
    u = [x_c * s for x_c in x]
    g = [w_c * dy_c for w_c, dy_c in zip(w, dy)]
    mean = dot(g, u) / len(x)
    return [s * (g_c - u_c * mean) for g_c, u_c in zip(g, u)], [dy_c * u_c for dy_c, u_c in zip(dy, u)]


def page_rmsnorm() -> List[List[str]]:
    eps, (x, w, r) = 0.1, randoms(3, 5)
    y, s = rmsnorm_forward(x, w, eps)
    dx, dw = rmsnorm_backward(r, x, w, s)

    def f() -> float:
        return dot(r, rmsnorm_forward(x, w, eps)[0])

    check_gradient("rmsnorm: x", f, [x], [dx])
    check_gradient("rmsnorm: w", f, [w], [dw])
    x_g = sum(x_c * w_c * r_c for x_c, w_c, r_c in zip(x, w, r))
    close("rmsnorm: x . dx = eps s^3 x . g", dot(x, dx), eps * s**3 * x_g)
    x7 = [7 * x_c for x_c in x]
    scaled, t = rmsnorm_forward(x7, w, 49 * eps)
    close("rmsnorm: a scaled row has the same output", dot(scaled, r), dot(y, r))
    close("rmsnorm: and the gradient divided by the scale", rmsnorm_backward(r, x7, w, t)[0][0], dx[0] / 7)

    # A branch on the residual stream, h = x + rmsnorm(W x): dx = dh + the branch's gradient.
    x2, weight, r2 = randoms(2, 5), randoms(5, 5), randoms(2, 5)

    def branch() -> Rows:
        return plus(x2, [rmsnorm_forward(o_n, w, eps)[0] for o_n in matmul_forward(x2, weight)])

    o = matmul_forward(x2, weight)
    d_o = [rmsnorm_backward(r_n, o_n, w, rmsnorm_forward(o_n, w, eps)[1])[0] for r_n, o_n in zip(r2, o)]
    dbranch, dweight = matmul_backward(d_o, x2, weight)
    check_gradient("residual: x", lambda: weighted(r2, branch()), x2, plus(r2, dbranch))
    check_gradient("residual: W", lambda: weighted(r2, branch()), weight, dweight)

    x, w, dy = [1.0, 7.0], [1.0, 2.0], [1.0, 1.0]
    y, s = rmsnorm_forward(x, w, 0.0)
    dx, dw = rmsnorm_backward(dy, x, w, s)
    u = [s * v for v in x]
    g = [a * b for a, b in zip(w, dy)]
    example = [
        "C = 2, eps = 0, x = (1, 7), w = (1, 2), dy = (1, 1)",
        f"mean(x^2) = {show(dot(x, x) / 2)}, s = {show(s)}",
        f"u = x s = {show(*u)}, y = w u = {show(*y)}",
        f"g = w dy = {show(*g)}, mean(g u) = {show(dot(g, u) / 2)}",
        f"dx = s (g - u mean(g u)) = {show(*dx)}, x . dx = {show(round(dot(x, dx), 12))}",
        f"dw = dy u = {show(*dw)}",
    ]
    exponentials = [math.exp(rng.gauss(0, 1)) for _ in range(20000)]
    spread = 20000 * dot(exponentials, exponentials) / sum(exponentials) ** 2
    close("rmsnorm: n sum p^2 = e for scores of variance 1", spread, math.e, 0.1)
    n, q = 1000, NH * HS
    v_rms = SIGMA * SIGMA * math.sqrt(C)
    o_rms = v_rms * math.sqrt(math.e / n) * SIGMA * math.sqrt(q)
    fine, coarse = (o_rms / math.sqrt(o_rms**2 + eps) for eps in (1e-6, 1e-5))
    early = [
        f"x, a row of the embedding                      rms {SIGMA:.2e}",
        f"v = Wv x: times {SIGMA:.4f} sqrt({C})               rms {v_rms:.2e}",
        f"mean over {n} keys: times sqrt(e / {n})      rms {v_rms * math.sqrt(math.e / n):.2e}",
        f"o = Wo (...): times {SIGMA:.4f} sqrt({q})           rms {o_rms:.2e}, mean(o^2) {o_rms**2:.1e}",
        f"the norm's output with eps = 1e-6              rms {fine:.2f} instead of 1",
        f"the norm's output with eps = 1e-5              rms {coarse:.2f}",
    ]
    size = [
        f"kept: o                      {size_of(N * C)} a layer and branch",
        f"kept: rstd                   {size_of(N)} a layer and branch",
        f"not kept: u = o rstd         {size_of(N * C)} a layer and branch",
    ]
    return [example, early, size]


# ---------------------------------------------------------------------------------------------
# matmul.md


def matmul_forward(x: Rows, w: Rows) -> Rows:
    return [[dot(x_n, w_o) for w_o in w] for x_n in x]


def matmul_backward(dy: Rows, x: Rows, w: Rows) -> Tuple[Rows, Rows]:
    """dx = dy W, dW = dy^T x."""
    return matmul_forward(dy, transposed(w)), matmul_forward(transposed(dy), transposed(x))


def page_matmul() -> List[List[str]]:
    x, w, r = randoms(3, 4), randoms(2, 4), randoms(3, 2)
    dx, dw = matmul_backward(r, x, w)

    def f() -> float:
        return weighted(r, matmul_forward(x, w))

    check_gradient("matmul: x", f, x, dx)
    check_gradient("matmul: W", f, w, dw)

    x, dy = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]
    w = [[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]
    y, (dx, dw) = matmul_forward(x, w), matmul_backward(dy, x, w)
    example = ["N = 2, I = 2, O = 3"]
    example += [f"W_{o} = {show(*w[o])}" for o in range(3)]
    example += [f"x_{n} = {show(*x[n])}   y_{n} = {show(*y[n])}" for n in range(2)]
    example += [f"dy_{n} = {show(*dy[n])}   dx_{n} = {show(*dx[n])}" for n in range(2)]
    example += [f"dW_{o} = {show(*dw[o])}" for o in range(3)]
    per_layer = 2 * C * NH * HS + 2 * C * NKV * HS + 3 * C * F
    cost = [
        f"weights in the matrices of a layer            {per_layer:13,}",
        f"in {L} layers and lm_head                      {L * per_layer + V * C:13,}",
        f"operations per token, forward (2 per weight)  {2 * (L * per_layer + V * C):13,}",
        f"forward and backward (6 per weight)           {6 * (L * per_layer + V * C):13,}",
    ]
    return [example, cost]


# ---------------------------------------------------------------------------------------------
# qknorm_rope.md


def rotate(x: Row, head_size: int, cosine: Row, sine: Row) -> Row:
    y, half = list(x), head_size // 2
    for h in range(0, len(x), head_size):
        for i in range(half):
            a, b = x[h + i], x[h + i + half]
            y[h + i] = a * cosine[i] - b * sine[i]
            y[h + i + half] = b * cosine[i] + a * sine[i]
    return y


def rope_angles(t: int, head_size: int, theta: float) -> Tuple[Row, Row]:
    angles = [t * theta ** (-2 * i / head_size) for i in range(head_size // 2)]
    return [math.cos(a) for a in angles], [math.sin(a) for a in angles]


def qknorm_rope_forward(
    x: Row, w: Row, head_size: int, cosine: Row, sine: Row, eps: float
) -> Tuple[Row, float]:
    y, s = rmsnorm_forward(x, w, eps)
    return rotate(y, head_size, cosine, sine), s


def qknorm_rope_backward(
    dy: Row, x: Row, w: Row, s: float, head_size: int, cosine: Row, sine: Row
) -> Tuple[Row, Row]:
    return rmsnorm_backward(rotate(dy, head_size, cosine, [-v for v in sine]), x, w, s)


def float32(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


def page_qknorm_rope() -> List[List[str]]:
    size = 6
    x, w, r = randoms(3, 2 * size)
    angles = rope_angles(3, size, 100.0)
    y, s = qknorm_rope_forward(x, w, size, *angles, 0.1)
    dx, dw = qknorm_rope_backward(r, x, w, s, size, *angles)

    def f() -> float:
        return dot(r, qknorm_rope_forward(x, w, size, *angles, 0.1)[0])

    check_gradient("qknorm_rope: x", f, [x], [dx])
    check_gradient("qknorm_rope: w", f, [w], [dw])
    q, k = randoms(2, size)

    def turned(row: Row, t: int) -> Row:
        return rotate(row, size, *rope_angles(t, size, 100.0))

    close("rope: R_9 q . R_4 k = q . R_-5 k", dot(turned(q, 9), turned(k, 4)), dot(q, turned(k, -5)))
    close("rope: a rotation keeps the length", dot(turned(q, 9), turned(q, 9)), dot(q, q))
    ones = [1.0] * 2 * size
    norm_first = qknorm_rope_forward(x, ones, size, *angles, 0.1)[0]
    norm_last = rmsnorm_forward(rotate(x, size, *angles), ones, 0.1)[0]
    close("qknorm_rope: with w = 1 the order is invisible", dot(norm_first, r), dot(norm_last, r))
    norm_last = rmsnorm_forward(rotate(x, size, *angles), w, 0.1)[0]
    check(abs(dot(y, r) - dot(norm_last, r)) > 1e-3, "qknorm_rope: with another w it is not")
    # |score| <= sqrt(NH NKV HS) with unit weights, reached when one head has all of a row
    bound, alone = math.sqrt(2 * 2 * size), rmsnorm_forward(x[:size] + [0.0] * size, ones, 0.0)[0]
    close("qknorm: the bound on a score is reached", dot(alone, alone) / math.sqrt(size), bound)
    for _ in range(200):
        n_q, n_k = (rmsnorm_forward(row, ones, 0.0)[0] for row in randoms(2, 2 * size))
        check(abs(dot(n_q[:size], n_k[:size])) / math.sqrt(size) <= bound, "qknorm: a score within its bound")

    x, w, cosine, sine = [1.0, 7.0, 7.0, 1.0], [1.0] * 4, [0.6], [0.8]
    y, s = qknorm_rope_forward(x, w, 2, cosine, sine, 0.0)
    dy = [1.0, 0.0, 0.0, 0.0]
    dn = rotate(dy, 2, cosine, [-0.8])
    dx, dw = qknorm_rope_backward(dy, x, w, s, 2, cosine, sine)
    u = [s * v for v in x]
    example = [
        "NH = 2, HS = 2, eps = 0, w = (1, 1, 1, 1), cos = 0.6, sin = 0.8 (a rotation by 53 degrees)",
        f"x = {show(*x)}, mean(x^2) = {show(dot(x, x) / 4)}, s = {show(s)}, u = {show(*u)}",
        f"y = {show(*y)}",
        f"dy = {show(*dy)}, rotated back: {show(*dn)}, mean(g u) = {show(dot(dn, u) / 4)}",
        f"dx = {show(*dx)}",
        f"dw = {show(*dw)}",
    ]
    worst = 0.0
    for t in range(4000, 4096):
        for i in range(64):
            frequency = 500000.0 ** (-2 * i / 128)
            worst = max(worst, abs(float32(float32(float(t)) * float32(frequency)) - t * frequency))
    check(1e-4 < worst < 3e-4, f"rope: fp32 angles differ by {worst}")
    turns = [
        "HS = 128: the angle of pair i at position t is t theta_i; positions per full turn, 2 pi / theta_i",
        *(
            f"theta {theta:6.0f}   pair 0: {2 * math.pi:.2f}   pair 32: {2 * math.pi * theta**0.5:.0f}"
            f"   pair 63: {2 * math.pi * theta ** (126 / 128):,.0f}"
            for theta in (10000.0, 500000.0)
        ),
        f"largest difference of the fp32 product from the exact angle, t = 4000 .. 4095: {worst:.1e}",
    ]
    bytes_kept = [
        f"kept: q_raw, k_raw           {size_of(N * (NH + NKV) * HS)} a layer",
        f"kept: two rstd               {size_of(2 * N)} a layer",
        f"recomputed: q, k             {size_of(N * (NH + NKV) * HS)} a layer, once for all layers",
    ]
    return [example, turns, bytes_kept]


# ---------------------------------------------------------------------------------------------
# attention.md


def logsumexp(x: Row) -> float:
    largest = max(x)
    return largest + math.log(sum(math.exp(v - largest) for v in x))


def attention_forward(q: Rows, k: Rows, v: Rows, heads: int, kv_heads: int) -> Tuple[Rows, Rows]:
    """q (T, NH*HS), k and v (T, NKV*HS) -> o (T, NH*HS), lse (NH, T)."""
    size = len(q[0]) // heads
    o, lse = [[0.0] * len(q[0]) for _ in q], [[0.0] * len(q) for _ in range(heads)]
    for h in range(heads):
        a, b = h * size, h // (heads // kv_heads) * size
        for i, q_i in enumerate(q):
            s = [dot(q_i[a : a + size], k[j][b : b + size]) / math.sqrt(size) for j in range(i + 1)]
            lse[h][i] = logsumexp(s)
            for j, s_ij in enumerate(s):
                for c in range(size):
                    o[i][a + c] += math.exp(s_ij - lse[h][i]) * v[j][b + c]
    return o, lse


def attention_backward(
    d_o: Rows, q: Rows, k: Rows, v: Rows, o: Rows, lse: Rows, heads: int, kv_heads: int
) -> Tuple[Rows, Rows, Rows]:
    size = len(q[0]) // heads
    dq, dk, dv = ([[0.0] * len(x[0]) for _ in x] for x in (q, k, v))
    for h in range(heads):
        a, b = h * size, h // (heads // kv_heads) * size
        for i in range(len(q)):
            mean = dot(d_o[i][a : a + size], o[i][a : a + size])
            for j in range(i + 1):
                s = dot(q[i][a : a + size], k[j][b : b + size]) / math.sqrt(size)
                p = math.exp(s - lse[h][i])
                ds = p * (dot(d_o[i][a : a + size], v[j][b : b + size]) - mean) / math.sqrt(size)
                for c in range(size):
                    dq[i][a + c] += ds * k[j][b + c]
                    dk[j][b + c] += ds * q[i][a + c]
                    dv[j][b + c] += p * d_o[i][a + c]
    return dq, dk, dv


def page_attention() -> List[List[str]]:
    heads, kv_heads, size, length = 4, 2, 3, 5
    q = randoms(length, heads * size)
    k, v = randoms(length, kv_heads * size), randoms(length, kv_heads * size)
    r = randoms(length, heads * size)
    o, lse = attention_forward(q, k, v, heads, kv_heads)

    def f() -> float:
        return weighted(r, attention_forward(q, k, v, heads, kv_heads)[0])

    for name, x, dx in zip("qkv", (q, k, v), attention_backward(r, q, k, v, o, lse, heads, kv_heads)):
        check_gradient(f"attention: {name}", f, x, dx)

    q, k, v, d_o = [[1.0], [1.0]], [[0.0], [math.log(3)]], [[4.0], [8.0]], [[1.0], [1.0]]
    o, lse = attention_forward(q, k, v, 1, 1)
    dq, dk, dv = attention_backward(d_o, q, k, v, o, lse, 1, 1)
    p = [math.exp(k[j][0] - lse[0][1]) for j in range(2)]
    dp = [d_o[1][0] * v[j][0] for j in range(2)]
    mean = d_o[1][0] * o[1][0]
    close("attention: D = sum p dp = do . o", dot(p, dp), mean)
    ds = [p[j] * (dp[j] - mean) for j in range(2)]
    close("attention: ds sums to 0", sum(ds), 0.0)
    example = [
        "T = 2, one head, HS = 1: q = (1, 1), k = (0, ln 3), v = (4, 8), do = (1, 1)",
        f"i = 0: s = (0), p = (1), o_0 = {show(o[0][0])}",
        f"i = 1: s = (0, ln 3), lse = ln 4 = {show(lse[0][1])}, p = {show(*p)}, o_1 = {show(o[1][0])}",
        f"       dp = {show(*dp)}, D = do o = {show(mean)}, ds = p (dp - D) = {show(*ds)}",
        "   ".join(f"{name} = {show(x[0][0], x[1][0])}" for name, x in (("dq", dq), ("dk", dk), ("dv", dv))),
    ]
    tile = 2 * 64 * T
    size_block = [
        f"p of every head, if it were kept: B NH T T       {size_of(B * NH * T * T)} a layer",
        f"kept instead: lse, B NH T                        {size_of(B * NH * T)} a layer",
        f"kept: o, needed by Wo's gradient anyway          {size_of(N * NH * HS)} a layer",
        f"kept: v                                          {size_of(N * NKV * HS)} a layer",
        f"tiles of a thread: p and ds, 64 queries, T keys  {size_of(tile)}",
    ]
    return [example, size_block]


# ---------------------------------------------------------------------------------------------
# swiglu.md


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def swiglu_forward(gate: Row, up: Row) -> Row:
    return [g * sigmoid(g) * u for g, u in zip(gate, up)]


def swiglu_backward(da: Row, gate: Row, up: Row) -> Tuple[Row, Row]:
    dgate = [d * u * sigmoid(g) * (1 + g * (1 - sigmoid(g))) for d, g, u in zip(da, gate, up)]
    return dgate, [d * g * sigmoid(g) for d, g in zip(da, gate)]


def page_swiglu() -> List[List[str]]:
    gate, up, r = randoms(3, 6)
    dgate, dup = swiglu_backward(r, gate, up)

    def f() -> float:
        return dot(r, swiglu_forward(gate, up))

    check_gradient("swiglu: gate", f, [gate], [dgate])
    check_gradient("swiglu: up", f, [up], [dup])

    g, u = math.log(3), 2.0
    (dg,), (du,) = swiglu_backward([1.0], [g], [u])
    example = [
        f"gate = ln 3 = {show(g)}, up = 2, da = 1",
        f"sigma = 1 / (1 + 1/3) = {show(sigmoid(g))}, silu = {show(g * sigmoid(g))}",
        f"a = {show(swiglu_forward([g], [u])[0])}",
        f"dup = silu = {show(du)}",
        f"dgate = 2 * 0.75 * (1 + {show(g)} * 0.25) = {show(dg)}",
    ]
    size = [
        f"kept: gate, up               {size_of(2 * N * F)} a layer",
        f"recomputed: act              {size_of(N * F)}, once for all layers",
    ]
    return [example, size]


# ---------------------------------------------------------------------------------------------
# classifier.md


def classifier_forward(logits: Row, label: int) -> Tuple[float, float]:
    lse = logsumexp(logits)
    return logits[label] - lse, lse


def classifier_backward(logits: Row, lse: float, label: int, weight: float, z: float) -> Row:
    factor = weight * (1 + 2 * z * lse)
    return [factor * math.exp(v - lse) - weight * (j == label) for j, v in enumerate(logits)]


def log_mean_exponential(columns: int) -> float:
    """ln E[e^logit] of an initial model, whose logits are sums of `columns` truncated normal weights."""
    ends = [math.erf(x / math.sqrt(2)) for x in (3 - 0.02, 3 + 0.02, 3)]
    factor = (ends[0] + ends[1]) / 2 / ends[2]
    return columns * (0.5 * 0.02**2 + math.log(factor))


def page_classifier() -> List[List[str]]:
    (logits,), z, weight, label = randoms(1, 7), 0.3, 0.25, 4
    logits[2] += 3.0
    logprob, lse = classifier_forward(logits, label)

    def f() -> float:
        logprob, lse = classifier_forward(logits, label)
        return weight * (-logprob + z * lse * lse)

    dlogits = classifier_backward(logits, lse, label, weight, z)
    check_gradient("classifier: logits", f, [logits], [dlogits])
    close("classifier: the row sums to 2 w z lse", sum(dlogits), 2 * weight * z * lse)
    shifted = classifier_forward([v + 5 for v in logits], label)
    close("classifier: a shift leaves log p", shifted[0], logprob)
    close("classifier: and moves lse", shifted[1], lse + 5)

    # The head in two chunks: dhidden and dW are those of all rows at once.
    hidden, w, labels = randoms(3, 4), randoms(7, 4), [4, 0, 6]

    def head(rows: Rows, chosen: List[int]) -> Tuple[Rows, Rows]:
        dlogits = []
        for row, y in zip(matmul_forward(rows, w), chosen):
            dlogits.append(classifier_backward(row, logsumexp(row), y, weight, z))
        return matmul_backward(dlogits, rows, w)

    def objective() -> float:
        terms = [classifier_forward(row, y) for row, y in zip(matmul_forward(hidden, w), labels)]
        return sum(weight * (-logprob + z * lse * lse) for logprob, lse in terms)

    first, second = head(hidden[:2], labels[:2]), head(hidden[2:], labels[2:])
    check_gradient("head in chunks: hidden", objective, hidden, first[0] + second[0])
    check_gradient("head in chunks: W", objective, w, plus(first[1], second[1]))

    logits, z = [0.0, math.log(3)], 0.1
    logprob, lse = classifier_forward(logits, 1)
    dlogits = classifier_backward(logits, lse, 1, 1.0, z)
    p = [math.exp(v - lse) for v in logits]
    example = [
        "V = 2, logits = (0, ln 3), label y = 1, w = 1, z = 0.1 (large, to make it visible)",
        f"lse = ln(1 + 3) = {show(lse)}, p = {show(*p)}, log p_y = ln 0.75 = {show(logprob)}",
        f"objective = {show(-logprob)} + 0.1 * {show(lse)}^2 = {show(-logprob + z * lse * lse)}",
        f"1 + 2 z lse = {show(1 + 2 * z * lse)}",
        f"dlogits = {show(*dlogits)}, sum = {show(sum(dlogits))} = 2 z lse",
        f"without z-loss: {show(*classifier_backward(logits, lse, 1, 1.0, 0.0))}, sum = 0",
    ]

    start = [f"ln V = ln {V} = {math.log(V):.3f}, std of a weight {SIGMA:.5f}"]
    for name, columns in (("190M", C), ("1B", 2048), ("7B", 4096)):
        variance = columns * SIGMA**2
        expected = math.log(V) + variance / 2
        close("lse at the start", math.log(V) + log_mean_exponential(columns), expected, 1e-4)
        start.append(
            f"{name:4}  C = {columns:4}  var = {variance:.3f}"
            f"  lse = CE = {math.log(V):.3f} + {variance / 2:.3f} = {expected:.2f}"
            f"   z-loss = 1e-5 lse^2 = {1e-5 * expected**2:.4f}"
        )
    drawn = [0.8 * rng.gauss(0, 1) for _ in range(20000)]
    close("lse of 20000 logits of variance 0.64", logsumexp(drawn), math.log(20000) + 0.32, 0.005)

    rows = (64 << 20) // 4 // V
    size = [
        f"all logits, N = {N}, V = {V}      {size_of(N * V)}",
        f"a chunk of {rows} rows                   {size_of(rows * V)}",
        f"kept: hidden                         {size_of(N * C)}",
    ]
    return [example, start, size]


# ---------------------------------------------------------------------------------------------
# adamw.md


def adamw(
    p: float, m: float, v: float, g: float, t: int, lr: float, decay: float, eps: float
) -> Tuple[float, float, float]:
    p *= 1 - lr * decay
    m += (1 - 0.9) * (g - m)
    v = 0.95 * v + (1 - 0.95) * g * g
    p -= lr / (1 - 0.9**t) * m / (math.sqrt(v) / math.sqrt(1 - 0.95**t) + eps)
    return p, m, v


def page_adamw() -> List[List[str]]:
    gradients = [rng.uniform(-1, 1) for _ in range(20)]
    for eps in (1e-8, 0.3):
        p, m, v, plain = 0.7, 0.0, 0.0, 0.7
        for t, g in enumerate(gradients, 1):
            p, m, v = adamw(p, m, v, g, t, 0.01, 0.1, eps)
            # the definition: weighted means of all gradients so far, decay from the old p
            weights = [0.9 ** (t - i) for i in range(1, t + 1)], [0.95 ** (t - i) for i in range(1, t + 1)]
            m_hat = dot(weights[0], gradients[:t]) / sum(weights[0])
            v_hat = dot(weights[1], [x * x for x in gradients[:t]]) / sum(weights[1])
            plain -= 0.01 * (0.1 * plain + m_hat / (math.sqrt(v_hat) + eps))
        close("adamw: the form in the code equals the definition", p, plain)
    scaled = [1.0, 1.0]
    for k, scale in enumerate((1.0, 1000.0)):
        p, m, v = 1.0, 0.0, 0.0
        for t, g in enumerate(gradients, 1):
            p, m, v = adamw(p, m, v, scale * g, t, 0.01, 0.0, 1e-12)
        scaled[k] = p
    close("adamw: a constant factor on every gradient changes nothing", scaled[0], scaled[1], 1e-9)

    p, m, v = 1.0, 0.0, 0.0
    example = ["lr = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight decay 0.1, p = 1, m = v = 0"]
    for t, g in ((1, 0.5), (2, -0.5)):
        kept = p * 0.99
        p, m, v = adamw(p, m, v, g, t, 0.1, 0.1, 1e-8)
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.95**t)
        example += [
            f"t = {t}, g = {g}: p = 0.99 p = {show(kept)}, m = {show(m)}, v = {show(v)}",
            f"       m / (1 - 0.9^{t}) = {show(m_hat)}, v / (1 - 0.95^{t}) = {show(v_hat)}",
            f"       p = {show(kept)} - 0.1 * {show(m_hat)} / ({show(math.sqrt(v_hat))} + 1e-8) = {show(p)}",
        ]
    clip = [
        f"two tensors, gradients (3, 0) and (4): norm = {show(math.hypot(3, 4))},"
        f" scale = min(1, 1 / (5 + 1e-6)) = {show(1 / (5 + 1e-6))}",
        f"clipped: {show(3 / (5 + 1e-6), 0.0)} and ({show(4 / (5 + 1e-6))})",
    ]
    limit = 2 + 6 * math.sqrt(100 / 99)
    past = [1.0, 3.0] * 50
    close("skip-step: unbiased variance", sum((x - 2) ** 2 for x in past) / 99, 100 / 99)
    skip = [
        f"100 past losses, 1 and 3 in turn: mean 2, variance 100/99,"
        f" limit 2 + 6 sqrt(100/99) = {show(limit)}"
    ]
    frozen = math.sqrt(1 - 0.95) / (1 - 0.9)
    frozen_block = [
        f"m / 0.1 over sqrt(v / 0.05) instead of m over sqrt(v): sqrt(0.05) / 0.1 = {show(frozen)}"
    ]
    q, kv = NH * HS, NKV * HS
    total = 2 * V * C + L * (2 * C * q + 2 * C * kv + 3 * C * F + 2 * C + q + kv) + C
    size = [f"190M: {total:,} parameters; p, dp, m, v: 16 bytes each, {size_of(4 * total)}"]
    return [example, clip, skip, frozen_block, size]


# ---------------------------------------------------------------------------------------------
# training.md


def training_labels(tokens: List[List[int]], mask: List[List[int]], filtered: List[bool]) -> List[List[int]]:
    """The token that follows, or -1: at the end, where the mask excludes it, in a filtered sequence."""
    labels = []
    for row, trained, out in zip(tokens, mask, filtered):
        labels.append([row[t + 1] if trained[t + 1] and not out else -1 for t in range(len(row) - 1)] + [-1])
    return labels


def training_count(labels: List[List[int]]) -> int:
    return sum(label >= 0 for row in labels for label in row)


def training_normalizer(labels: List[List[int]], filtered: List[bool]) -> int:
    return training_count(labels) + sum(len(row) for row, out in zip(labels, filtered) if out)


def training_weights(labels: List[List[int]], n: int) -> Rows:
    return [[1 / n if label >= 0 else 0.0 for label in row] for row in labels]


def page_training() -> List[List[str]]:
    tokens, filtered = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1]], [False, False, True]
    mask = [[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]
    labels = training_labels(tokens, mask, filtered)
    N = training_normalizer(labels, filtered)
    weights = training_weights(labels, N)

    # J of a model with one matrix, logits = E[token] W^T: its gradient is the sum over any micro-batches.
    table, w, z = randoms(4, 3), randoms(4, 3), 0.1

    def forward(b: int, t: int) -> Tuple[float, float]:
        return classifier_forward([dot(table[tokens[b][t]], w_v) for w_v in w], labels[b][t])

    def objective() -> float:
        places = [(b, t) for b in range(3) for t in range(4) if labels[b][t] >= 0]
        return sum(-logprob + z * lse * lse for logprob, lse in (forward(*place) for place in places)) / N

    def gradient(sequences: List[int]) -> Rows:
        hidden, dlogits = [], []
        for b in sequences:
            for t in range(4):
                hidden.append(table[tokens[b][t]])
                logits = [dot(hidden[-1], w_v) for w_v in w]
                lse = logsumexp(logits)
                dlogits.append(classifier_backward(logits, lse, labels[b][t], weights[b][t], z))
        return matmul_backward(dlogits, hidden, w)[1]

    for parts in ([[0, 1, 2]], [[0], [1, 2]], [[0, 1], [2]], [[0], [1], [2]]):
        total = [[0.0] * 3 for _ in w]
        for part in parts:
            total = plus(total, gradient(part))
        check_gradient(f"training: W, micro-batches {parts}", objective, w, total)

    counts = [training_count([row]) for row in labels]
    ln2 = math.log(2)
    nll = [(1 + 2 + 1) * ln2, 3 * ln2, 0.0]  # of p(label) = 1/2, 1/4, 1/2 and 1/8
    nll_sum = sum(nll)
    whole = [nll[0] / N, (nll[1] + nll[2]) / N]
    part_N = [training_normalizer(labels[i:j], filtered[i:j]) for i, j in ((0, 1), (1, 3))]
    wrong = (nll[0] / part_N[0] + nll[1] / part_N[1]) / 2
    example = [
        "B = 3, T = 4; sequence 1: the mask trains only its second token; sequence 2 is filtered",
        f"labels:  {' + '.join(map(str, counts))} = {sum(counts)}, N = {counts[0]} + {counts[1]} + 4 = {N}",
        f"weights: {', '.join(show(*row) for row in weights)}",
        f"p(label) = 1/2, 1/4, 1/2 and 1/8: sum of -log p = 4 ln 2 + 3 ln 2 = {show(nll_sum)}",
        f"objective {show(nll_sum)} / {N} = {show(nll_sum / N)},"
        f" reported loss {show(nll_sum)} / {sum(counts)} = {show(nll_sum / sum(counts))}",
    ]
    parts_block = [
        f"cut into {{0}} and {{1, 2}}: 4 ln 2 / {N} + 3 ln 2 / {N}"
        f" = {show(whole[0])} + {show(whole[1])} = {show(sum(whole))}",
        f"with N per part and the mean of the parts:"
        f" (4 ln 2 / {part_N[0]} + 3 ln 2 / {part_N[1]}) / 2 = {show(wrong)}",
    ]
    return [example, parts_block]


# ---------------------------------------------------------------------------------------------
# decoding.md


class Released:
    """A released size: what a token reads and computes."""

    def __init__(self, name: str) -> None:
        row = re.findall(rf'\{{ "{name}",([\d, ]+)\}}', (ROOT / "llmc/olmo2.h").read_text())[0]
        columns, layers, heads, kv_heads, size, hidden = (int(number) for number in row.split(","))
        q, self.kv = heads * size, kv_heads * size
        self.name, self.layers, self.q, self.group = name, layers, q, heads // kv_heads
        self.matrices = layers * (2 * columns * q + 2 * columns * self.kv + 3 * columns * hidden)
        self.head = V * columns
        norms = layers * (2 * columns + q + self.kv) + columns
        self.parameters = self.matrices + 2 * self.head + norms
        self.read = self.matrices + self.head + norms + columns  # one row of the embedding
        self.cache = 2 * layers * self.kv  # keys and values of a position


LAPTOP = 2 * 8 * 3.2e9  # bytes a second: two channels of DDR4-3200, 8 bytes wide
LAPTOP_PEAK = 8 * 2 * 2 * 8 * 3.5e9  # FLOP a second: 8 cores, 2 multiply-adds of 8 lanes a cycle, 3.5 GHz
H100, H100_PEAK = 3.35e12, 989.4e12


def tokens_a_second(size: Released, width: int, bandwidth: float, held: int, cache_width: int) -> float:
    return bandwidth / (width * size.read + cache_width * size.cache * held)


def cached_attention(pieces: Sequence[int], q: Rows, k: Rows, v: Rows, heads: int, kv_heads: int) -> Rows:
    """Rows in pieces: each appends its keys and values, then its queries see all of the cache before them."""
    keys: Rows = []
    values: Rows = []
    o: Rows = []
    for count in pieces:
        begin = len(keys)
        keys += k[begin : begin + count]
        values += v[begin : begin + count]
        for i in range(begin, begin + count):
            last = [q[i]] * (i + 1)  # the last row of a forward over these keys
            o.append(attention_forward(last, keys[: i + 1], values[: i + 1], heads, kv_heads)[0][i])
    return o


def steps_of_batches(lengths: Sequence[int], slots: int) -> int:
    return sum(max(lengths[i : i + slots]) for i in range(0, len(lengths), slots))


def steps_with_refilled_slots(lengths: Sequence[int], slots: int) -> int:
    ends = [0] * slots
    for length in lengths:
        ends[ends.index(min(ends))] += length
    return max(ends)


def page_decoding() -> List[List[str]]:
    q, k, v = randoms(6, 8), randoms(6, 4), randoms(6, 4)
    whole = attention_forward(q, k, v, 4, 2)[0]
    for pieces in ([6], [1] * 6, [4, 1, 1], [2, 3, 1]):
        parts = cached_attention(pieces, q, k, v, 4, 2)
        check(parts == whole, f"decoding: pieces of {pieces} have the bits of the forward")

    k, v = [[0.0], [math.log(3)], [math.log(4)]], [[4.0], [8.0], [2.0]]
    o = attention_forward([[1.0]] * 3, k, v, 1, 1)[0]
    p = [math.exp(key[0]) / 8 for key in k]
    example = [
        "one head, HS = 1; the cache has k = (0, ln 3), v = (4, 8); the new token q = 1, k = ln 4, v = 2",
        f"append: k = (0, ln 3, ln 4), v = {show(*(value[0] for value in v))}",
        f"p = (1, 3, 4) / 8 = {show(*p)}",
        f"o = {show(p[0])} * 4 + {show(p[1])} * 8 + {show(p[2])} * 2 = {show(o[2][0])}",
    ]
    close("decoding: the example", o[2][0], 4.5)

    sizes = [Released(name) for name in ("1B", "7B", "13B", "32B")]
    cache = ["      numbers a position         fp32, a position   bf16, a position   bf16, 4096 positions"]
    for size in sizes:
        cache.append(
            f"{size.name:4}  2 * {size.layers} * {size.kv} = {size.cache:7,}"
            f"{4 * size.cache / 1e3:16,.0f} kB{2 * size.cache / 1e3:16,.0f} kB"
            f"{2 * size.cache * 4096 / 1e9:20.2f} GB"
        )
    large = sizes[3]
    cache.append(
        f"32B without groups: 2 * {large.layers} * {large.q} = {2 * large.layers * large.q:,},"
        f" {large.group} times as many"
    )

    small, medium = sizes[0], sizes[1]
    bound = [f"{'':11}{'weights':>10}{'laptop':>9}{'4096 held':>12}{'H100':>9}{'4096 held':>12}"]
    for size in (small, medium, large):
        for name, width in (("fp32", 4), ("bf16", 2)):
            line = f"{size.name:5}{name:6}{width * size.read / 1e9:7.2f} GB"
            for held, cells in ((0, "9.1f"), (4096, "12.1f")):
                line += f"{tokens_a_second(size, width, LAPTOP, held, 4):{cells}}"
            for held, cells in ((0, "9.0f"), (4096, "12.0f")):
                line += f"{tokens_a_second(size, width, H100, held, 2):{cells}}" * (name == "bf16")
            bound.append(line)
    ridge = LAPTOP_PEAK / LAPTOP, H100_PEAK / H100
    batch = [
        f"laptop  {LAPTOP_PEAK / 1e9:,.0f} GFLOP/s over {LAPTOP / 1e9:.1f} GB/s = {ridge[0]:.1f} FLOP a byte:"
        f" {ridge[0] * 2:.0f} sequences of fp32 weights, {ridge[0]:.0f} of bf16",
        f"H100    {H100_PEAK / 1e12:.0f} TFLOP/s over {H100 / 1e12:.2f} TB/s = {ridge[1]:.0f} FLOP a byte:"
        f" {ridge[1]:.0f} sequences of bf16 weights",
        f"7B, bf16 cache: {2 * medium.read / (2 * medium.cache * 4096):.1f} sequences of 4096 positions"
        " read as much cache as weights",
    ]
    prompt = 512
    work = 2 * (small.matrices * prompt + small.head)
    triangle = 4 * small.layers * small.q * prompt * (prompt + 1) // 2
    prefill = [
        f"1B, {prompt} tokens: {work / 1e12:.2f} TFLOP in products, {triangle / 1e12:.2f} in attention",
        f"prefill    {(work + triangle) / LAPTOP_PEAK:5.1f} s of arithmetic,"
        f" {4 * small.read / LAPTOP:.1f} s to read the weights once in fp32",
        f"one by one {prompt * 4 * small.read / LAPTOP:5.1f} s to read them {prompt} times",
        f"copying {prompt} positions: {size_of(small.cache * prompt)}, read and written"
        f" in {2 * 4 * small.cache * prompt / LAPTOP * 1e3:.0f} ms",
    ]
    lengths = [7, 2, 3, 2, 6, 1]
    continuous = [
        f"2 slots, texts of {', '.join(map(str, lengths))} tokens: at least {(sum(lengths) + 1) // 2} steps",
        f"in pairs, each as long as its longer text: {steps_of_batches(lengths, 2)} steps",
        f"a slot takes the next text when its own ends: {steps_with_refilled_slots(lengths, 2)} steps",
    ]
    return [example, cache, bound, batch, prefill, continuous]


# ---------------------------------------------------------------------------------------------
# README.md, traps.md, and what the pages name


def page_readme() -> List[List[str]]:
    per_token = 4 * C + 2 * (NH + NKV) * HS + 2 * F + NH + 4
    again = (NH + NKV) * HS + F
    kept = L * N * per_token + 2 * N * C + N
    chunk_rows = (64 << 20) // 4 // V
    return [
        [
            f"190M: C {C}, L {L}, NH {NH}, NKV {NKV}, HS {HS}, F {F}, V {V}; B {B}, T {T}",
            "kept for the backward, floats a token and layer:",
            f"  x, o, h, down                4 C                     {4 * C}",
            f"  q_raw, attention             2 NH HS                 {2 * NH * HS}",
            f"  k_raw, v                     2 NKV HS                {2 * NKV * HS}",
            f"  gate, up                     2 F                     {2 * F}",
            f"  lse, four rstd               NH + 4                  {NH + 4}",
            f"  together                                             {per_token}",
            f"all layers, last x, hidden and its rstd                {size_of(kept)}",
            f"saved by recomputing q, k and act                      {size_of(L * N * again)}",
            f"saved by never holding p (T x T)                       {size_of(L * B * NH * T * T)}",
            f"saved by logits in chunks, less one chunk              {size_of((N - chunk_rows) * V)}",
        ]
    ]


def page_traps() -> List[List[str]]:
    page = (PAGES / "traps.md").read_text()
    source = (ROOT / "dev/test/test_mutations.py").read_text()
    mutations = re.findall(r'^    \("(.*?)", \[', source, re.MULTILINE)
    check(len(mutations) > 0, "test_mutations.py has mutations")
    for mutation in mutations:
        check(f"| {mutation} |" in page, f"traps.md: no row for the mutation {mutation!r}")
    table = page[page.index("## Broken on purpose") : page.index("## Caught elsewhere")]
    rows = re.findall(r"^\| ([^|]*?) \|", table, re.MULTILINE)
    named = [row for row in rows if row not in ("break", "---")]
    different = set(named) ^ set(mutations)
    check(sorted(named) == sorted(mutations), f"traps.md: rows {different} differ from the mutations")
    return []


def check_names(name: str, text: str, source: str) -> None:
    """Checks that the functions, variables, files and pages that a page names exist."""
    for identifier in sorted(set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", text))):
        check(re.search(rf"\b{identifier}\b", source) is not None, f"{name}: the source has no {identifier}")
    for path in sorted(set(re.findall(r"`([\w/]+\.(?:c|h|py|sh|cu))`", text))):
        found = any((folder / path).exists() for folder in (ROOT, ROOT / "llmc", ROOT / "dev/test", PAGES))
        check(found, f"{name}: no file {path}")
    for link in sorted(set(re.findall(r"\]\((?!http)([\w/.]+)\)", text))):
        check((PAGES / link).exists(), f"{name}: no file {link}")
    if name != "README.md":
        says_where = "\n- Code: " in text and "\n- Tests: " in text
        check(says_where, f"{name}: does not say where its code and its tests are")


PAGE_EXAMPLES: Dict[str, Callable[[], List[List[str]]]] = {
    "README.md": page_readme,
    "embedding.md": page_embedding,
    "rmsnorm.md": page_rmsnorm,
    "matmul.md": page_matmul,
    "qknorm_rope.md": page_qknorm_rope,
    "attention.md": page_attention,
    "swiglu.md": page_swiglu,
    "classifier.md": page_classifier,
    "adamw.md": page_adamw,
    "training.md": page_training,
    "decoding.md": page_decoding,
    "traps.md": page_traps,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--print", action="store_true", help="print the pages' examples, exactly as required")
    arguments = parser.parse_args()
    files = [ROOT / "train_olmo2.c", ROOT / "train_olmo2.cu", ROOT / "test_olmo2.c"]
    files += [*ROOT.glob("llmc/**/*.h"), *ROOT.glob("dev/test/*.*")]
    source = "\n".join(file.read_text() for file in files)
    for name, examples in PAGE_EXAMPLES.items():
        text = (PAGES / name).read_text() if (PAGES / name).exists() else ""
        for block in examples():
            if arguments.print:
                print(f"--- {name}", *block, sep="\n")
            expected = "```text\n" + "\n".join(block) + "\n```"
            check(expected in text, f"{name}: the block that begins {block[0]!r}")
        check_names(name, text, source)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
