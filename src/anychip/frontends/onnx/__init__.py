"""ONNX models in: `load` makes a Module of a file. Numbers are the ONNX standard's."""

from anychip.frontends.onnx.load import constant_inputs, load, read_model

__all__ = ["constant_inputs", "load", "read_model"]
