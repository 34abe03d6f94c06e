"""Why ONNX has nothing for an op, and what a model may do instead. Ops with a rule are not here."""

from __future__ import annotations

_DEVICE = "it feeds or reads a device's queues; a model that is run once has inputs and results"
_FACTORS = (
    "a factoring, whose every column needs the one before; ONNX has no linear algebra but products"
)
_RANDOM = (
    "ONNX draws by a generator of the runtime's choice, not by StableHLO's; draw before the model "
    "and pass the numbers in"
)
_SPECIAL = "a special function that ONNX has no op for, and whose series is not written here"
_COMPLEX = "ONNX has no complex numbers; compute with their real and imaginary parts"
_OTHERS = "it talks to other devices; an ONNX model is of one"
_SIZES = "its sizes are data; fix them (Module.specialise, or --dim)"
_TUPLE = "ONNX has no tuples; give several results"

WHY = {
    "stablehlo.after_all": "ONNX has no tokens: its nodes are ordered by their data alone",
    "stablehlo.all_gather": _OTHERS,
    "stablehlo.all_reduce": _OTHERS,
    "stablehlo.all_to_all": _OTHERS,
    "stablehlo.async_done": _OTHERS,
    "stablehlo.async_start": _OTHERS,
    "stablehlo.batch_norm_grad": "a gradient; ONNX's batch norm goes forward only",
    "chlo.bessel_i1e": _SPECIAL,
    "chlo.broadcast_complex": _COMPLEX,
    "chlo.broadcast_next_after": "opset 23 reinterprets no bits of floats",
    "chlo.broadcast_polygamma": _SPECIAL,
    "chlo.broadcast_zeta": _SPECIAL,
    "stablehlo.cholesky": _FACTORS,
    "stablehlo.collective_broadcast": _OTHERS,
    "stablehlo.collective_permute": _OTHERS,
    "stablehlo.create_token": "ONNX has no tokens: its nodes are ordered by their data alone",
    "stablehlo.cross-replica-sum": _OTHERS,
    "stablehlo.custom_call": "only the one who wrote the call knows what it computes",
    "chlo.digamma": _SPECIAL,
    "stablehlo.dynamic_conv": _SIZES,
    "stablehlo.dynamic_gather": _SIZES,
    "stablehlo.dynamic_pad": _SIZES,
    "stablehlo.get_tuple_element": _TUPLE,
    "stablehlo.infeed": _DEVICE,
    "chlo.lgamma": _SPECIAL,
    "chlo.mulhi": "ONNX's products keep the low half, and no type is wide enough for both",
    "chlo.next_after": "opset 23 reinterprets no bits of floats",
    "stablehlo.outfeed": _DEVICE,
    "chlo.polygamma": _SPECIAL,
    "stablehlo.recv": _DEVICE,
    "stablehlo.reduce_scatter": _OTHERS,
    "stablehlo.rng": _RANDOM,
    "stablehlo.rng_bit_generator": _RANDOM,
    "chlo.scan": "ONNX's Scan is not written here; a while loop is",
    "stablehlo.select_and_scatter": "a gradient of pooling; ONNX pools forward only",
    "stablehlo.send": _DEVICE,
    "stablehlo.set_dimension_size": "ONNX's arrays have no part that counts and part that does not",
    "stablehlo.triangular_solve": _FACTORS,
    "stablehlo.tuple": _TUPLE,
    "stablehlo.uniform_dequantize": "it reads a type with a scale of its own, no ONNX tensor",
    "stablehlo.uniform_quantize": "it makes a type with a scale of its own, no ONNX tensor",
    "chlo.zeta": _SPECIAL,
}


def why(op: str) -> str:
    """For a refusal."""
    return WHY.get(op, "ONNX has no op for it")
