"""In the child: ONNX Runtime hands what it can to QNN, which writes a context binary."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def compile_context(model: Path, plugin: Path, soc: int, hexagon: int) -> dict[str, Any]:
    """`context` (an ONNX file whose EPContext nodes hold the binaries), `profile` (how long QNN's
    steps took, CSV), `left` (names and kinds of nodes that QNN did not take)."""
    import onnx
    import onnxruntime as ort

    ort.register_execution_provider_library("QNNExecutionProvider", str(plugin))
    out, profile = model.with_name("context.onnx"), model.with_name("profile.csv")
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    for key, value in {
        "ep.context_enable": "1",
        "ep.context_file_path": str(out),
        "ep.context_embed_mode": "1",
    }.items():
        settings.add_session_config_entry(key, value)
    options = {
        "backend_path": str(plugin.with_name("libQnnHtp.so")),
        "soc_model": str(soc),
        "htp_arch": str(hexagon),
        "enable_htp_fp16_precision": "1",
        "offload_graph_io_quantization": "0",
        "profiling_level": "basic",
        "profiling_file_path": str(profile),
    }
    devices = [d for d in ort.get_ep_devices() if d.ep_name == "QNNExecutionProvider"]
    settings.add_provider_for_devices(devices[:1], options)
    ort.InferenceSession(str(model), settings)
    if not out.exists():
        return {"context": b"", "profile": b"", "left": []}
    nodes = onnx.load(out).graph.node
    return {
        "context": out.read_bytes(),
        "profile": profile.read_bytes() if profile.exists() else b"",
        "left": [(n.name, n.op_type) for n in nodes if n.op_type != "EPContext"],
    }
