"""Importing this package fills the table; one file a subject."""

from anychip.frontends.onnx.rules import (
    attention,
    control,
    conv,
    image,
    index,
    math,
    norm,
    quant,
    recurrent,
    reduce,
    resize,
    sequence,
    signal,
    tensor,
)

__all__ = [
    "attention",
    "control",
    "conv",
    "image",
    "index",
    "math",
    "norm",
    "quant",
    "recurrent",
    "reduce",
    "resize",
    "sequence",
    "signal",
    "tensor",
]
