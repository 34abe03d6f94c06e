"""StableHLO → ONNX: a Module as an ONNX model, its weights by name beside it."""

from anychip.compilers.onnx_export.export import OPSET, Exported, export

__all__ = ["OPSET", "Exported", "export"]
