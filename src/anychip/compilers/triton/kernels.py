"""The kernels, in Triton: products, softmax, norms, attention. Imported in a child process only.

Strides and sizes are constants of a kernel: one is compiled for each shape. Sums are made in f32.
Attention is the online softmax of Dao et al., "FlashAttention" (arXiv:2205.14135), section 3.
"""

# Triton is not installed where this is checked; its language is Python by looks only.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def matmul(
    a,
    b,
    c,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    ABATCH: tl.constexpr,
    AM: tl.constexpr,
    AK: tl.constexpr,
    BBATCH: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
    TM: tl.constexpr,
    TN: tl.constexpr,
    TK: tl.constexpr,
):
    """c[z, m, n] = sum over k of a[z, m, k] b[z, k, n]; c is dense, a and b by their strides."""
    z = tl.program_id(2)
    m = tl.program_id(0) * TM + tl.arange(0, TM)
    n = tl.program_id(1) * TN + tl.arange(0, TN)
    k = tl.arange(0, TK)
    total = tl.zeros((TM, TN), tl.float32)
    for start in range(0, K, TK):
        now = start + k
        left = tl.load(
            a + z * ABATCH + m[:, None] * AM + now[None, :] * AK,
            mask=(m[:, None] < M) & (now[None, :] < K),
            other=0.0,
        )
        right = tl.load(
            b + z * BBATCH + now[:, None] * BK + n[None, :] * BN,
            mask=(now[:, None] < K) & (n[None, :] < N),
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision="ieee")
    where = c + z * M * N + m[:, None] * N + n[None, :]
    tl.store(where, total.to(c.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def softmax(x, y, N: tl.constexpr, BLOCK: tl.constexpr):
    """Along the last dimension, a row a program."""
    row = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    values = tl.load(x + row * N + n, mask=n < N, other=float("-inf")).to(tl.float32)
    e = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row * N + n, (e / tl.sum(e, axis=0)).to(y.dtype.element_ty), mask=n < N)


@triton.jit
def rms_norm(
    x, scale, y, N: tl.constexpr, EPS: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    values = tl.load(x + row * N + n, mask=n < N, other=0.0).to(tl.float32)
    values = values * tl.rsqrt(tl.sum(values * values, axis=0) / N + EPS)
    factor = tl.load(scale + n, mask=n < N, other=0.0).to(tl.float32) + OFFSET
    tl.store(y + row * N + n, (values * factor).to(y.dtype.element_ty), mask=n < N)


@triton.jit
def layer_norm(x, scale, bias, y, N: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    values = tl.load(x + row * N + n, mask=n < N, other=0.0).to(tl.float32)
    values = tl.where(n < N, values - tl.sum(values, axis=0) / N, 0.0)
    values = values * tl.rsqrt(tl.sum(values * values, axis=0) / N + EPS)
    factor = tl.load(scale + n, mask=n < N, other=0.0).to(tl.float32)
    shift = tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(y + row * N + n, (values * factor + shift).to(y.dtype.element_ty), mask=n < N)


@triton.jit
def attention(
    q,
    k,
    v,
    o,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    Q: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    TQ: tl.constexpr,
    TS: tl.constexpr,
):
    """q[B, HEADS, Q, D], k and v[B, KEYS, S, D] → o as q; a block of queries a program."""
    bh = tl.program_id(1)
    kv = (bh // HEADS) * KEYS + (bh % HEADS) // (HEADS // KEYS)
    i = tl.program_id(0) * TQ + tl.arange(0, TQ)
    d = tl.arange(0, D)
    query = tl.load(q + (bh * Q + i[:, None]) * D + d[None, :], mask=i[:, None] < Q, other=0.0)
    top = tl.full((TQ,), float("-inf"), tl.float32)
    weight = tl.zeros((TQ,), tl.float32)
    total = tl.zeros((TQ, D), tl.float32)
    for start in range(0, S, TS):
        j = start + tl.arange(0, TS)
        inside = j[:, None] < S
        key = tl.load(k + (kv * S + j[:, None]) * D + d[None, :], mask=inside, other=0.0)
        value = tl.load(v + (kv * S + j[:, None]) * D + d[None, :], mask=inside, other=0.0)
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * SCALE
        visible = j[None, :] < S
        if CAUSAL:
            visible = visible & (j[None, :] <= i[:, None])
        logits = tl.where(visible, logits, float("-inf"))
        highest = tl.maximum(top, tl.max(logits, axis=1))
        e = tl.exp(logits - highest[:, None])
        fade = tl.exp(top - highest)
        weight = weight * fade + tl.sum(e, axis=1)
        total = total * fade[:, None]
        total = tl.dot(e.to(value.dtype), value, total, input_precision="ieee")
        top = highest
    total = total / weight[:, None]
    where = o + (bh * Q + i[:, None]) * D + d[None, :]
    tl.store(where, total.to(o.dtype.element_ty), mask=i[:, None] < Q)
