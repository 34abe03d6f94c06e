"""StableHLO → ONNX: a Module as an ONNX model, its weights by name beside it."""

from anychip.compilers.onnx_export.export import DOORS, OPSET, Exported, export

__all__ = ["DOORS", "OPSET", "Exported", "export"]
