"""Rounding against ml_dtypes (floats) and the OCP MX rules written a second time (blocks)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from anychip.core import UsageError, dtype
from anychip.core.blocks import block_format
from anychip.twin.rounding import BLOCKS, FLOATS, float_format, round_blocks, round_float, rounded

NAMED = [name for name in FLOATS if name not in ("tf32", "cb16")]


def compiled(rule, x, *arguments, **options) -> np.ndarray:
    return np.asarray(jax.jit(lambda v: rule(v, *arguments, **options))(x))


def bit_patterns() -> np.ndarray:
    """Every value of f32's upper half with lower halves around ties, and random ones."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x1000, 0x8000, 0x8001], np.uint32)
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    return np.concatenate([(upper[:, None] | lower).ravel(), random]).view(np.float32)


def same(got, want) -> np.ndarray:
    got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
    return (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_floats_are_ml_dtypes_bit_for_bit(name):
    x = bit_patterns()
    if FLOATS[name].beyond == "none":
        x = x[~np.isnan(x)]  # these have no NaN to give
    want = x.astype(dtype(name).numpy).astype(np.float32)
    got = jax.jit(lambda v: round_float(v, FLOATS[name]))(x)
    wrong = ~same(got, want)
    assert not wrong.any(), (x[wrong][:4], np.asarray(got)[wrong][:4], want[wrong][:4])


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_saturating_keeps_the_largest_number_and_every_nan(name):
    x = bit_patterns()
    got = np.asarray(jax.jit(lambda v: round_float(v, FLOATS[name], beyond="saturate"))(x))
    assert np.array_equal(np.isnan(got), np.isnan(x))
    assert np.nanmax(got) == FLOATS[name].largest == -np.nanmin(got)
    inside = np.abs(x) <= FLOATS[name].largest
    assert same(got[inside], x[inside].astype(dtype(name).numpy)).all()


def test_flushing_makes_subnormals_zero_and_nothing_else():
    x = bit_patterns()
    kind = FLOATS["f16"]
    kept = compiled(round_float, x, kind)
    flushed = compiled(round_float, x, kind, flush=True)
    small = np.abs(kept) < 2.0**-14
    assert (flushed[small] == 0).all()
    assert same(flushed[~small], kept[~small]).all()


def test_tf32_and_custom_floats_keep_so_many_bits():
    one = float_format("e8m13")
    x = np.array([1 + 2.0**-13, 1 + 2.0**-14, 1 + 3 * 2.0**-14, -1 - 2.0**-15], np.float32)
    assert compiled(round_float, x, one).tolist() == [1 + 2.0**-13, 1, 1 + 2.0**-12, -1]
    x = bit_patterns()
    finite = x[np.isfinite(x)]
    exact = finite.astype(np.float64)
    step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126))) - 10)
    want = np.rint(exact / step) * step
    inside = np.abs(want) <= FLOATS["tf32"].largest
    got = compiled(round_float, finite, FLOATS["tf32"])
    assert np.array_equal(got[inside].astype(np.float64), want[inside])
    assert float_format("e8m23") is None
    assert float_format("e5m2") is None


def ocp(x: np.ndarray, name: str) -> np.ndarray:
    """OCP MX 1.0, section 6.3, in float64: X = 2^(floor(log2 max|V|) - emax), P = round(V / X)."""
    block = BLOCKS[name]
    rows = x.astype(np.float64).reshape(-1, block.size)
    integer = block.element.startswith("int")
    emax = 0 if integer else int(np.floor(np.log2(FLOATS[block.element].largest)))
    peak = np.abs(rows).max(-1, keepdims=True)
    exponent = np.floor(np.log2(np.where(peak > 0, peak, 1))) - emax
    scale = 2.0 ** np.clip(exponent, -127, 127)
    if integer:
        bits = int(block.element[3:])
        most = 2.0 ** (bits - 1) - 1
        codes = np.clip(np.rint(rows / scale * 2.0 ** (bits - 2)), -most, most) / 2.0 ** (bits - 2)
    else:
        largest = FLOATS[block.element].largest
        clipped = np.clip(rows / scale, -largest, largest)
        codes = clipped.astype(np.float32).astype(dtype(block.element).numpy).astype(np.float64)
    return (codes * scale).reshape(x.shape).astype(np.float32)


def samples(size: int, rows: int = 300) -> np.ndarray:
    random = np.random.default_rng(5)
    x = random.normal(size=(rows, size)) * 10.0 ** random.integers(-30, 30, (rows, 1))
    x[0] = 0
    x[1] = np.tile([1.0, -1.0], size // 2)
    x[2] = np.linspace(-7.5, 7.5, size)  # ties of the four-bit elements
    x[3, 1:] *= 1e-6  # one outlier
    return x.astype(np.float32)


@pytest.mark.parametrize("name", [n for n, b in BLOCKS.items() if b.scale == "e8m0"])
def test_blocks_follow_the_ocp_rule_bit_for_bit(name):
    x = samples(BLOCKS[name].size * 2)
    got = jax.jit(lambda v: round_blocks(v, BLOCKS[name]))(x)
    assert same(np.asarray(got) + 0, ocp(x, name) + 0).all()


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8", "mxint8", "mxint4"])
def test_blocks_are_what_packing_them_gives(name):
    x = samples(64)
    form = block_format(name)
    got = jax.jit(lambda v: round_blocks(v, BLOCKS[name]))(x)
    assert same(np.asarray(got) + 0, form.dequantize(form.quantize(x)) + 0).all()


def test_nvfp4_has_a_scale_for_sixteen_and_one_for_the_tensor():
    x = samples(64)[4:40]
    x /= np.abs(x).max(-1, keepdims=True)
    e4m3, e2m1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn
    tensor = np.float32(np.abs(x).max() / np.float32(6 * 448))
    rows = (x / tensor).reshape(len(x), 4, 16)
    peak = np.abs(rows).max(-1, keepdims=True) / np.float32(6)
    own = peak.astype(e4m3).astype(np.float32)
    want = np.clip(rows / own, -6, 6).astype(e2m1).astype(np.float32) * own * tensor
    got = jax.jit(lambda v: round_blocks(v, BLOCKS["nvfp4"]))(x)
    np.testing.assert_allclose(np.asarray(got), want.reshape(x.shape), rtol=2e-7)


@pytest.mark.parametrize("name", ["mxint8", "mxfp4", "nvfp4"])
def test_a_block_with_no_finite_peak_is_nan_and_its_neighbour_is_not(name):
    size = BLOCKS[name].size
    x = np.ones((3, 2 * size), np.float32)
    x[:, 1] = [np.nan, np.inf, -np.inf]
    got = compiled(round_blocks, x, BLOCKS[name])
    assert np.isnan(got[:, :size]).all()
    if BLOCKS[name].scale == "e8m0":  # nvfp4's tensor scale is everyone's
        assert (got[:, size:] == 1).all()


@pytest.mark.parametrize("name", ["mxint8", "mxfp4", "nvfp4", "bfp16"])
def test_a_short_last_block_counts_zeros(name):
    x = samples(64)[4:8, :40] / 1e3
    padded = np.pad(x, ((0, 0), (0, 24)))
    got = compiled(round_blocks, x, BLOCKS[name])
    assert np.array_equal(got, compiled(round_blocks, padded, BLOCKS[name])[:, :40])


def test_blocks_and_scales_lie_along_the_summed_axes():
    x = samples(64)[4:8].reshape(4, 2, 32)
    turned = np.ascontiguousarray(x.transpose(1, 2, 0))
    for name in ("mxint8", "i8", "f8E4M3FN", "bf16"):
        straight = compiled(rounded, x, name, (1, 2))
        other = compiled(rounded, turned, name, (0, 1))
        assert np.array_equal(other, straight.transpose(1, 2, 0)), name


def test_integers_reach_their_largest_in_every_row():
    x = samples(64)[4:]
    got = compiled(rounded, x, "i8", (1,))
    scale = np.abs(x).max(-1, keepdims=True) / 127
    assert (np.abs(got - x) <= scale / 2 * 1.001).all()
    np.testing.assert_allclose(np.abs(got).max(-1), np.abs(x).max(-1), rtol=1e-6)


def test_rounding_twice_is_rounding_once():
    x = samples(64)[4:]
    for name in ("f16", "cb16", "e8m13", "mxfp6", "mxint4", "bfp16"):
        once = compiled(rounded, x, name, (1,))
        again = compiled(rounded, once, name, (1,))
        assert np.array_equal(again, once), name


def test_an_unknown_format_lists_the_known():
    with pytest.raises(UsageError, match="mxint8"):
        rounded(jnp.ones((2, 2)), "mxint9", (1,))
