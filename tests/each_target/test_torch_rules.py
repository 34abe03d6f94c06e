"""frontends/torch: rules called directly, where no line of Python leads torch.export to them.

Together with test_torch_ops every rule is tried: the last test counts.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_groups import GROUPS
from torch_tensors import Both

from anychip.frontends.torch.export import capture, decomposed
from anychip.frontends.torch.random import RULES as RANDOM
from anychip.frontends.torch.sizes import RULES as SIZES
from anychip.frontends.torch.table import table
from anychip.frontends.torch.tensors import to_numpy

_GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=_GENERATOR)


X, Y = randn(3, 4, 5), randn(3, 4, 5)
N, J = torch.arange(-30, 30).reshape(3, 4, 5), (torch.arange(60) * 7 % 11 + 1).reshape(3, 4, 5)
B = X > 0
SPECIAL = torch.tensor([1.0, -math.inf, math.inf, math.nan, -2.5])
IMAGE, VOLUME, LINE = randn(2, 4, 6, 8), randn(1, 2, 4, 5, 6), randn(2, 4, 9)
HEADS = randn(2, 4, 6, 8)
ROWS = torch.tensor([0, 2, 2])
F8 = torch.float8_e4m3fn

Case = tuple[Any, ...]

CASES: dict[str, list[Case]] = {
    "__and__.Tensor": [(N, J)],
    "__or__.Scalar": [(N, 6)],
    "__lshift__.Tensor": [(J, J)],
    "__rshift__.Tensor": [(N, J % 3)],
    "_adaptive_avg_pool2d": [(IMAGE, [3, 5])],
    "_adaptive_avg_pool3d": [(VOLUME, [2, 3, 2])],
    "adaptive_avg_pool3d": [(VOLUME, [2, 2, 4])],
    "adaptive_max_pool3d": [(VOLUME, [2, 3, 2])],
    "_batch_norm_no_update": [(IMAGE, randn(4), randn(4), randn(4), randn(4).abs(), 0.1, 1e-5)],
    "_cdist_forward": [(X, Y, 1.5, None)],
    "_conj_physical": [(torch.complex(X, Y),)],
    "conj_physical": [(torch.complex(X, Y),)],
    "_convolution": [
        (LINE, randn(4, 4, 3), None, [1], [1], [1], False, [0], 1, False, False, False, False)
    ],
    "convolution": [
        (LINE, randn(4, 2, 3), randn(4), [2], [1], [1], True, [1], 2),
        (IMAGE, randn(6, 4, 3, 3), randn(6), [1, 2], [0, 1], [1, 1], False, [0, 0], 1),
    ],
    "conv1d.padding": [(LINE, randn(3, 4, 3), None, [1], "same")],
    "conv3d.padding": [(VOLUME, randn(3, 2, 3, 3, 3), None, [1, 1, 1], "valid")],
    "_fused_rms_norm": [(X, [5], randn(5), 1e-5)],
    "_local_scalar_dense": [(torch.tensor(3.0),)],
    "_log_softmax": [(X, 1, False)],
    "_softmax": [(X, -1, False)],
    "_safe_softmax": [(torch.where(X > 1.5, -math.inf, X), 1), (torch.full((2, 3), -math.inf), 1)],
    "_native_batch_norm_legit_functional": [
        (IMAGE, randn(4), randn(4), randn(4), randn(4).abs(), True, 0.1, 1e-5)
    ],
    "_pad_circular": [(LINE, [2, 1])],
    "_pdist_forward": [(X[0], 2.0)],
    "_prelu_kernel": [(X, torch.tensor(0.25))],
    "_reshape_alias": [(X, [12, 5], [5, 1])],
    "_unsafe_index.Tensor": [(X, [None, ROWS])],
    "_unsafe_masked_index": [(X[0, 0], B[:, 0, 0], [torch.arange(3)], 0.5)],
    "_upsample_bicubic2d_aa": [(IMAGE, [3, 5], False)],
    "_upsample_bilinear2d_aa": [(IMAGE, [9, 5], False)],
    "_upsample_nearest_exact1d": [(LINE, [5])],
    "_upsample_nearest_exact2d": [(IMAGE, [5, 9])],
    "_upsample_nearest_exact3d": [(VOLUME, [5, 3, 9])],
    "_upsample_nearest_exact1d.vec": [(LINE, None, [1.5])],
    "_upsample_nearest_exact3d.vec": [(VOLUME, [3, 4, 7], None)],
    "upsample_bicubic2d": [(IMAGE, [9, 11], True)],
    "upsample_bilinear2d": [(IMAGE, [9, 11], False)],
    "upsample_linear1d": [(LINE, [13], True)],
    "upsample_nearest1d": [(LINE, [13])],
    "upsample_nearest1d.vec": [(LINE, None, [2.0])],
    "upsample_nearest2d": [(IMAGE, [9, 16])],
    "upsample_nearest3d": [(VOLUME, [8, 3, 7])],
    "upsample_nearest3d.vec": [(VOLUME, None, [2.0, 1.5, 1.0])],
    "upsample_trilinear3d": [(VOLUME, [3, 9, 6], True)],
    "add.Scalar": [(X, 2, 3)],
    "sub.Scalar": [(N, 2, 3)],
    "rsub.Tensor": [(X, Y)],
    "div.Scalar": [(N, 4)],
    "addmv": [(randn(4), X[0], randn(5))],
    "addr": [(randn(4, 5), randn(4), randn(5))],
    "alias": [(X,)],
    "t": [(X[0],)],
    "all.dim": [(B, 1)],
    "all.dims": [(B, [0, 2], True)],
    "any.dims": [(B, [0, 1])],
    "allclose": [(X, X + 1e-9)],
    "equal": [(X, Y)],
    "amin": [(X, [1])],
    "min": [(X,)],
    "median": [(X,)],
    "prod": [(X,)],
    "std": [(X,)],
    "var": [(X, False)],
    "std.correction": [(X, [1])],
    "dist": [(X, Y, 2)],
    "norm.Scalar": [(X,)],
    "norm.ScalarOpt_dim": [(X, 1, [1], True)],
    "as_strided_scatter": [(X.clone(), randn(3, 2), [3, 2], [5, 1], 1)],
    "bitwise_and.Scalar": [(N, 6)],
    "bitwise_and.Scalar_Tensor": [(6, J)],
    "bitwise_and.Tensor": [(B, Y > 0)],
    "bitwise_or.Scalar": [(N, 6)],
    "bitwise_or.Scalar_Tensor": [(6, J)],
    "bitwise_or.Tensor": [(B, Y > 0)],
    "bitwise_xor.Scalar": [(N, 6)],
    "bitwise_xor.Scalar_Tensor": [(6, J)],
    "bitwise_xor.Tensor": [(N, J)],
    "bitwise_left_shift.Tensor": [(J, J)],
    "bitwise_left_shift.Tensor_Scalar": [(J, 2)],
    "bitwise_right_shift.Tensor": [(N, J % 3)],
    "bitwise_right_shift.Tensor_Scalar": [(N, 2)],
    "logical_or": [(N, B)],
    "logical_xor": [(N, B)],
    "sgn": [(torch.complex(X, Y),), (N,)],
    "remainder.Tensor": [(X, Y)],
    "remainder.Scalar_Tensor": [(7, J)],
    "fmod.Tensor": [(N, J)],
    "fmin": [(X, torch.where(B, math.nan, Y))],
    "float_power.Scalar": [(2, X)],
    "float_power.Tensor_Tensor": [(X.abs(), Y)],
    "copysign.Scalar": [(X, -1.0)],
    "lcm": [(J, J + 1)],
    "nextafter": [(X, Y)],
    "frexp.Tensor": [(X,)],
    "xlogy.Scalar_Other": [(X, 2.0)],
    "xlogy.Scalar_Self": [(2.0, X.abs())],
    "special_xlogy": [(X, Y.abs())],
    "special_i0e": [(X,)],
    "special_i1": [(X,)],
    "special_i1e": [(X,)],
    "special_ndtr": [(X,)],
    "max.other": [(X, Y)],
    "min.other": [(X, Y)],
    "clamp_max": [(X, 0.5)],
    "clamp_max.Tensor": [(X, Y)],
    "clip": [(X, -1, 1)],
    "clip.Tensor": [(X, Y, None)],
    "complex": [(X, Y)],
    "isneginf": [(SPECIAL,)],
    "isposinf": [(SPECIAL,)],
    "isin.Scalar_Tensor": [(3, N)],
    "isin.Tensor_Scalar": [(N, 3)],
    "is_nonzero": [(torch.tensor(2),)],
    "item": [(torch.tensor(2.5),)],
    "ge.Tensor": [(X, Y)],
    "gt.Tensor": [(X, Y)],
    "le.Tensor": [(N, J)],
    "ne.Tensor": [(N, J)],
    "masked_fill.Tensor": [(X, B, torch.tensor(3.0))],
    "hardshrink": [(X,)],
    "softshrink": [(X, 0.3)],
    "bucketize.Scalar": [(0.5, torch.tensor([0.0, 1.0]))],
    "searchsorted.Scalar": [(torch.tensor([0.0, 1.0]), 0.5)],
    "count_nonzero.dim_IntList": [(N, [1])],
    "cross": [(randn(4, 3), randn(4, 3), 1)],
    "inner": [(X[0], Y[0])],
    "ger": [(randn(3), randn(4))],
    "vdot": [(randn(4), randn(4)), (torch.complex(X, Y)[0, 0], torch.complex(Y, X)[0, 0])],
    "mm": [(X[0], Y[0].T.contiguous())],
    "linalg_matmul": [(X, Y.mT.contiguous())],
    "matrix_power": [(randn(3, 3), 2)],
    "chain_matmul": [([randn(2, 3), randn(3, 4), randn(4, 2)],)],
    "_int_mm": [(torch.ones(32, 16, dtype=torch.int8) * 3, torch.ones(16, 8, dtype=torch.int8))],
    "constant_pad_nd": [(X, [1, 0, 2, -1], 2.5)],
    "reflection_pad1d": [(LINE, [2, 1])],
    "reflection_pad2d": [(IMAGE, [2, 1, 0, 3])],
    "reflection_pad3d": [(VOLUME, [1, 1, 2, 0, 1, 2])],
    "replication_pad1d": [(LINE, [2, 1])],
    "replication_pad2d": [(IMAGE, [2, 1, 0, 3])],
    "replication_pad3d": [(VOLUME, [1, 1, 2, 0, 1, 2])],
    "concat": [([X, Y], 1)],
    "concatenate": [([X, N], 2)],
    "meshgrid": [([randn(2), randn(3)],)],
    "squeeze.dims": [(X[:, :1, :1], [1, 2])],
    "fliplr": [(X,)],
    "flipud": [(X,)],
    "native_channel_shuffle": [(IMAGE, 2)],
    "fft_ifftshift": [(X, [1])],
    "fill.Scalar": [(X, 3)],
    "zero": [(X,)],
    "full": [([2, 3], 1.5), ([2], 7), ([2], True)],
    "eye": [(3,)],
    "new_ones": [(N, [2, 2])],
    "triu_indices": [(3, 4, 1)],
    "linspace.Scalar_Tensor": [(0, torch.tensor(2.0), 5)],
    "linspace.Tensor_Scalar": [(torch.tensor(0.0), 2, 5)],
    "linspace.Tensor_Tensor": [(torch.tensor(0.0), torch.tensor(2.0), 5)],
    "put": [(X, torch.tensor([1, 5]), torch.tensor([9.0, 8.0])), (X, ROWS, randn(3), True)],
    "index_fill.int_Tensor": [(X, 1, ROWS, torch.tensor(4.0))],
    "index_reduce": [(X, 0, ROWS, Y, "prod"), (X, 0, ROWS, Y, "amax")],
    "max_pool3d_with_indices": [(VOLUME, [2, 2, 2])],
    "native_group_norm": [(IMAGE, randn(4), randn(4), 2, 4, 48, 2, 1e-5)],
    "native_layer_norm": [(X, [4, 5], randn(4, 5), randn(4, 5), 1e-5)],
    "pdist": [(X[0],)],
    "special_log_softmax": [(X, 1)],
    "special_softmax": [(X, 1)],
    "type_as": [(N, X)],
    "true_divide.Scalar": [(N, 2)],
    "true_divide.Tensor": [(N, J)],
    "lift": [(X,)],
    "lift_fresh": [(X,)],
    "lift_fresh_copy": [(X,)],
}

NAMED: dict[str, list[tuple[Case, dict[str, Any]]]] = {
    "argsort.stable": [((N % 3,), {"stable": True, "dim": 1})],
    "nonzero_static": [
        ((B,), {"size": int(B.sum()), "fill_value": 0}),
        ((B,), {"size": int(B.sum()) + 3}),
        ((B,), {"size": 2}),
        ((torch.tensor(1),), {"size": 2}),
    ],
    "div.Scalar_mode": [((X, 0.7), {"rounding_mode": "floor"})],
    "scatter.reduce": [((X, 1, N.abs() % 4, Y), {"reduce": "multiply"})],
    "scatter.value_reduce": [((X, 1, N.abs() % 4, 2.0), {"reduce": "add"})],
    "norm.ScalarOpt_dim_dtype": [((X, 2, [1], False), {"dtype": torch.float64})],
}

# Composites of torch that are decomposed before a rule could see them under this test's calls,
# or that have no kernel on the CPU to compare with: held by what they are made of.
BY_THEIR_PARTS = {
    "_batch_norm_with_update_functional",
    "_embedding_bag",
    "_neg_view",
    "_scaled_dot_product_attention_math",
    "_scaled_mm",
    "embedding_bag",
    "empty.memory_format",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "floor_divide.Scalar",
    "log_sigmoid_forward",
    "max_pool1d_with_indices",
    "max_unpool3d",
    "new_empty",
    "new_empty_strided",
    "rrelu_with_noise_functional",
}


def to_jax(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return jnp.asarray(to_numpy(value))
    return [to_jax(v) for v in value] if isinstance(value, list) else value


def overload(name: str) -> Any:
    packet, _, which = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), which or "default")


def full_name(name: str) -> str:
    return f"aten.{name if '.' in name else f'{name}.default'}"


def calls(name: str) -> list[tuple[Case, dict[str, Any]]]:
    return [(case, {}) for case in CASES.get(name, [])] + NAMED.get(name, [])


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("name", sorted({n for n in CASES if CASES[n]} | set(NAMED)))
def test_rule_gives_what_torch_gives(name: str):
    for args, kwargs in calls(name):
        wanted = overload(name)(*args, **kwargs)
        with jax.enable_x64(True):
            got = table()[full_name(name)](*map(to_jax, args), **kwargs)
        pairs = (
            zip(got, wanted, strict=True) if isinstance(wanted, tuple | list) else [(got, wanted)]
        )
        for one, other in pairs:
            if not isinstance(other, torch.Tensor):
                assert np.asarray(one) == other
                continue
            expected = to_numpy(other)
            assert (one.dtype, one.shape) == (expected.dtype, expected.shape), args
            np.testing.assert_allclose(one, expected, rtol=2e-5, atol=2e-5)


def test_flash_attention_is_attention():
    flash = table()["aten._scaled_dot_product_flash_attention_for_cpu.default"]
    got = flash(*[to_jax(HEADS)] * 3, 0.0, True, scale=0.3)[0]
    wanted = torch.nn.functional.scaled_dot_product_attention(
        HEADS, HEADS, HEADS, is_causal=True, scale=0.3
    )
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def test_scaled_matmul_scales_rows_and_columns():
    a, b = randn(4, 16).to(F8), randn(8, 16).to(F8).t()
    rows, columns = randn(4, 1).abs(), randn(1, 8).abs()
    rule = table()["aten._scaled_mm.default"]
    got = rule(*map(to_jax, (a, b, rows, columns)), out_dtype=torch.float32)
    np.testing.assert_allclose(got, (a.float() @ b.float()) * rows * columns, rtol=1e-5)


def test_transformers_grouped_product_is_a_product_by_group():
    x, weight = randn(6, 8), randn(3, 8, 5)
    rule = table()["transformers.grouped_mm_fallback.default"]
    ends = torch.tensor([2, 2, 6], dtype=torch.int32)
    got = rule(*map(to_jax, (x, weight, ends)))
    wanted = torch.cat([x[:2] @ weight[0], x[2:] @ weight[2]])
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_rules_have_torchs_shapes_and_plausible_values(name: str):
    given: dict[str, Case] = {
        "rand": ([500],),
        "randn": ([500],),
        "rand_like": (X,),
        "randn_like": (X,),
        "randint": (9, [500]),
        "randint.low": (3, 9, [500]),
        "randint_like": (X, 9),
        "randint_like.low_dtype": (X, 3, 9),
        "randperm": (20,),
        "uniform": (X, -1.0, 1.0),
        "normal_functional": (X, 2.0, 0.5),
        "exponential": (X, 2.0),
        "normal.Tensor_Tensor": (X, X.abs()),
        "normal.Tensor_float": (X, 0.5),
        "normal.float_Tensor": (0.5, X.abs()),
        "bernoulli": (X.sigmoid(),),
        "bernoulli.p": (X, 0.25),
        "multinomial": (X[0].abs(), 3),
        "native_dropout": (X, 0.5, True),
    }
    args = given[name.removeprefix("aten.").removesuffix(".default")]
    with jax.enable_x64(True):
        key = jax.random.key(0)
        got = RANDOM[name](*map(to_jax, args), key=key)
        again = RANDOM[name](*map(to_jax, args), key=key)
    wanted = overload(name.removeprefix("aten."))(*args)
    for one, same, other in zip(_listed(got), _listed(again), _listed(wanted), strict=True):
        expected = to_numpy(other)
        assert (one.dtype, one.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(one, same)
    drawn, reference = (np.asarray(_listed(v)[0], np.float64) for v in (got, to_numpy_all(wanted)))
    spread = 4 * max(reference.std(), 0.3) / math.sqrt(reference.size) + 0.3
    assert abs(drawn.mean() - reference.mean()) < spread


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def to_numpy_all(value: Any) -> list[np.ndarray]:
    return [to_numpy(v) for v in _listed(value)]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_every_rule_is_tried():
    tried = {full_name(n) for n in [*BY_THEIR_PARTS, *NAMED, *(n for n in CASES if CASES[n])]}
    tried |= {
        *RANDOM,
        *SIZES,  # sizes and their checks: the programs of test_torch_program
        "aten._scaled_dot_product_flash_attention_for_cpu.default",
        "transformers.grouped_mm_fallback.default",
    }
    zero = torch.zeros(())
    with torch.no_grad():
        for group in GROUPS.values():
            both = Both(group).eval()
            both(zero)  # makes the constants before anything is traced
            program = decomposed(capture(both, (zero,), {}, None, None))
            tried |= {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    untried = {n for n in table() if n not in tried and not n.startswith("higher_order.")}
    assert not untried, sorted(untried)  # higher-order rules: test_torch_control
