"""Lets torchvision import beside a torch build its compiled ops do not fit: for test set-up only.

timm needs torchvision's Python parts; its C++ ops are declared as placeholders and never called.
"""

from __future__ import annotations

import torch

_OPS = (
    "nms",
    "qnms",
    "roi_align",
    "qroi_align",
    "ps_roi_align",
    "roi_pool",
    "ps_roi_pool",
    "deform_conv2d",
    "_roi_align_backward",
    "_ps_roi_align_backward",
    "_roi_pool_backward",
    "_ps_roi_pool_backward",
    "_deform_conv2d_backward",
)


def declare() -> torch.library.Library | None:
    """Declare the ops torchvision expects, unless its own library loads. Keep the result alive."""
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPS:
        library.define(f"{name}(Tensor x) -> Tensor")
    return library
