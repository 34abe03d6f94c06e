"""core/blocks.py against two independent implementations: gguf.quants and ml_dtypes."""

import gguf.quants as reference
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from anychip.core import InputError, UnsupportedError
from anychip.core.blocks import BLOCK_FORMATS, block_format

GGML = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q5_K", "q6_K", "mxfp4", "nvfp4"]
MADE = ["q4_0", "q4_1", "q8_0", "mxfp4", "mxfp8", "mxint8", "mxint4", "nvfp4"]


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32)


def random_blocks(name, rows=64):
    """Random bytes whose f16 and E4M3 scales are finite."""
    form = block_format(name)
    raw = np.random.default_rng(7).integers(0, 256, (rows, 2, form.nbytes), dtype=np.uint8)
    halves = {"q4_1": [0, 2], "q5_1": [0, 2], "q4_K": [0, 2], "q5_K": [0, 2], "q6_K": [208]}
    for at in halves.get(name, [0] if name.startswith("q") else []):
        raw[..., at + 1] &= 0xBF  # clears an exponent bit: no infinity, no NaN
    if name == "nvfp4":
        raw[..., :4] &= 0x3F
    if name.startswith("mx"):
        raw[..., 0] = np.clip(raw[..., 0], 20, 220)  # XLA flushes denormals, numpy does not
    if name == "mxfp8":
        raw[..., 1:] &= 0xBF  # no NaN
    return raw.reshape(rows, 2 * form.nbytes)


@pytest.mark.parametrize("name", GGML)
def test_dequantize_is_bit_exact_with_gguf(name):
    raw = random_blocks(name)
    theirs = reference.dequantize(raw, GGMLQuantizationType[name.upper()])
    np.testing.assert_array_equal(bits(block_format(name).dequantize(raw) + 0), bits(theirs + 0))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_numpy_and_jax_agree_bit_for_bit(name):
    raw = random_blocks(name, rows=8)
    form = block_format(name)
    read = jax.jit(lambda b: form.dequantize(b, jnp))
    np.testing.assert_array_equal(bits(read(raw)), bits(form.dequantize(raw)))
    if form.pack is not None:
        x = sample(form.elements)
        make = jax.jit(lambda x: form.quantize(x, jnp))
        np.testing.assert_array_equal(make(x), form.quantize(x))


def sample(elements, rows=32):
    random = np.random.default_rng(3)
    x = random.normal(size=(rows, 2 * elements)) * 10.0 ** random.integers(-4, 3, (rows, 1))
    x[0] = 0
    x[1, elements:] = np.tile([1.0, -1.0], elements // 2)
    return x.astype(np.float32)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q8_0", "mxfp4"])
def test_quantize_is_byte_exact_with_gguf(name):
    x = sample(block_format(name).elements)
    theirs = reference.quantize(x, GGMLQuantizationType[name.upper()])
    ours = block_format(name).quantize(x)
    if name == "mxfp4":  # gguf breaks ties downwards and has no negative zero: compare the values
        _, element = mx_by_ml_dtypes(x, ml_dtypes.float4_e2m1fn)
        np.testing.assert_array_equal(ours[:, :1], theirs[:, :1])
        np.testing.assert_array_equal(block_format(name).dequantize(ours), element)
        return
    np.testing.assert_array_equal(ours, theirs)


def mx_by_ml_dtypes(x, element):
    """The OCP rule with ml_dtypes' own rounding: scales and dequantised values."""
    largest = {ml_dtypes.float4_e2m1fn: (2, 6.0), ml_dtypes.float8_e4m3fn: (8, 448.0)}[element]
    rows = x.reshape(x.shape[0], -1, 32).astype(np.float64)
    peak = np.abs(rows).max(-1, keepdims=True)
    exponent = np.floor(np.log2(np.where(peak > 0, peak, 2.0**-120))) - largest[0]
    scale = (2.0 ** np.clip(exponent, -127, 127)).astype(np.float32)
    scaled = np.clip(rows / scale, -largest[1], largest[1]).astype(np.float32)
    return scale, (scale * scaled.astype(element).astype(np.float32)).reshape(x.shape)


def test_mxfp8_rounds_like_ml_dtypes():
    x = sample(32)
    form = block_format("mxfp8")
    _, expected = mx_by_ml_dtypes(x, ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(form.dequantize(form.quantize(x)), expected)


def test_e8m0_scales_read_as_ml_dtypes_reads_them():
    scales = np.arange(255, dtype=np.uint8)
    blocks = np.zeros((255, 33), np.uint8)
    blocks[:, 0], blocks[:, 1] = scales, 64  # mxint8: 64 * 2^-6 = 1
    ours = block_format("mxint8").dequantize(blocks)[:, 0]
    expected = scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("name", "worst"), [("mxint8", 2**-6), ("mxint4", 2**-2)])
def test_mxint_error_is_at_most_one_step_of_the_block(name, worst):
    x = sample(32)
    form = block_format(name)
    peak = np.abs(x.reshape(-1, 32)).max(-1, keepdims=True)
    error = np.abs(form.dequantize(form.quantize(x)) - x).reshape(-1, 32)
    step = worst * 2.0 ** np.floor(np.log2(np.where(peak > 0, peak, 1)))
    assert (error <= step).all()
    interior = np.abs(x.reshape(-1, 32)) < step * (1 / worst)
    assert (error[interior] <= np.broadcast_to(step / 2, error.shape)[interior]).all()


def test_nvfp4_with_its_outer_scale_keeps_small_weights():
    form = block_format("nvfp4")
    x = sample(64)[2:]
    outer = form.outer_scale(x)
    back = form.dequantize(form.quantize(x / outer[:, None])) * outer[:, None]
    groups = np.abs(x).reshape(len(x), -1, 16).max(-1).repeat(16, -1)
    assert (np.abs(back - x) <= groups * 0.25 + 1e-12).all()
    assert (np.abs(back - x).mean(-1) < 0.1 * np.abs(x).mean(-1)).all()


@pytest.mark.parametrize("name", MADE)
def test_numbers_a_format_holds_exactly_survive_a_round_trip(name):
    form = block_format(name)
    raw = random_blocks(name)
    once = form.quantize(form.dequantize(raw))
    values = form.dequantize(once)
    np.testing.assert_array_equal(form.dequantize(form.quantize(values)), values)


def test_wrong_sizes_and_read_only_formats_say_what_would_work():
    with pytest.raises(InputError, match="not a multiple of q4_0's block of 32"):
        block_format("q4_0").quantize(np.zeros((2, 33), np.float32))
    with pytest.raises(InputError, match="not a multiple"):
        block_format("q8_0").dequantize(np.zeros((2, 33), np.uint8))
    with pytest.raises(UnsupportedError, match="these can: q4_0"):
        block_format("q6_K").quantize(np.zeros((1, 256), np.float32))
