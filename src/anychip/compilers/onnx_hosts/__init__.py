"""Runtimes for this host that eat ONNX: `cpu:onnxruntime` and `cpu:openvino`."""

from anychip.compilers.onnx_hosts.openvino import OpenVinoTarget
from anychip.compilers.onnx_hosts.ort import OrtTarget

__all__ = ["OpenVinoTarget", "OrtTarget"]
