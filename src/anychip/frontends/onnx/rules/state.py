"""Linear attention and causal convolution with carried state (opset 27)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.frontends.onnx.rules.attention import heads
from anychip.frontends.onnx.table import Call, op


@op("CausalConvWithState")
def causal_conv_with_state(
    call: Call, x: Any, weight: Any, bias: Any = None, past: Any = None
) -> Any:
    """Depthwise convolution over what came before; the last k - 1 inputs are the state."""
    reach = weight.shape[-1] - 1
    if past is None:
        past = jnp.zeros((*x.shape[:2], reach), x.dtype)
    whole = jnp.concatenate([past.astype(x.dtype), x], axis=2)
    out = lax.conv_general_dilated(
        whole,
        weight,
        (1,),
        [(0, 0)],
        dimension_numbers=("NCW", "OIW", "NCW"),
        feature_group_count=x.shape[1],
    )
    if bias is not None:
        out = out + bias[None, :, None]
    if call.attr("activation", "none") in ("silu", "swish"):
        out = jax.nn.silu(out)
    return out, whole[:, :, whole.shape[2] - reach :]


@op("LinearAttention")
def linear_attention(
    call: Call,
    q: Any,
    k: Any,
    v: Any,
    past: Any = None,
    decay: Any = None,
    beta: Any = None,
) -> Any:
    """The recurrence S ← e^g S + β k (v - e^g Sᵀk)ᵀ, token by token (arXiv:2412.06464).

    Without gates e^g is 1; without the delta rule the update is k vᵀ alone.
    """
    kind, rule = q.dtype, call.attr("update_rule", "gated_delta")
    groups = call.required("kv_num_heads")
    q, k, v = heads(q, call.required("q_num_heads")), heads(k, groups), heads(v, groups)
    scale = call.attr("scale") or 1 / math.sqrt(q.shape[-1])
    batch, _, length, width = k.shape
    q, k, v = (t.astype(jnp.promote_types(kind, jnp.float32)) for t in (q, k, v))
    start = jnp.zeros((batch, groups, width, v.shape[-1]), q.dtype)
    start = start if past is None else past.astype(q.dtype)
    gate = jnp.ones((batch, groups, length, 1), q.dtype)
    if decay is not None and "gated" in rule:
        gate = jnp.exp(decay.astype(q.dtype))
        gate = heads(gate, groups)
    rate = jnp.ones((batch, groups, length, 1), q.dtype)
    if beta is not None and "delta" in rule:
        rate = jnp.broadcast_to(heads(beta.astype(q.dtype), beta.shape[-1]), rate.shape)
    grouped = q.reshape((batch, groups, q.shape[1] // groups, length, width))

    def step(state: Any, at: Any) -> Any:
        query, key, value, g, b = at
        state = state * g[..., None]
        if "delta" in rule:
            value = value - jnp.einsum("bhkv,bhk->bhv", state, key)
        state = state + jnp.einsum("bhk,bhv->bhkv", key * b, value)
        return state, scale * jnp.einsum("bhgk,bhkv->bhgv", query, state)

    times = (jnp.moveaxis(grouped, 3, 0), *(jnp.moveaxis(t, 2, 0) for t in (k, v, gate, rate)))
    last, out = lax.scan(step, start, times)
    out = jnp.moveaxis(out, 0, 1).reshape((batch, length, -1))
    return out.astype(kind), last.astype(kind if past is None else past.dtype)
