"""What a node of an FX graph calls, and where in the user's model it stands."""

# Annotations of torch are partly missing or wrong:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx

from anychip.core.origin import Origin
from anychip.frontends.torch.sizes import PYTHON

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def overload_name(target: Any) -> str | None:
    """`aten.add.Tensor`, `higher_order.cond.default`; None for a plain Python function."""
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order.{target.name()}.default"
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return f"{target._qualified_op_name.replace('::', '.')}.default"
    return None


def is_known_function(target: object) -> bool:
    """Whether a graph's plain Python function is arithmetic on sizes."""
    return target in PYTHON or getattr(target, "__module__", "") in ("_operator", "operator")


def origin_of(node: fx.Node) -> Origin:
    """The user's layer (`blocks.0.attn`) and the innermost line outside torch."""
    stack = node.meta.get("nn_module_stack") or {}
    return origin_from([path for path, _kind in stack.values()], node.meta.get("stack_trace") or "")


def origin_from(paths: Iterable[str], stack_trace: str) -> Origin:
    """The same from a node's stack of modules, outermost first, and its stack trace."""
    layer = ""
    for path in paths:
        layer = _clean(path) or layer
    frames = _FRAME.findall(stack_trace)
    own = [f"{f}:{n}" for f, n in frames if not f.startswith((_TORCH, "<eval_with_key>"))]
    return Origin(layer, own[-1] if own else "")


def _clean(path: str) -> str:
    """Dynamo writes `L['self'].blocks[0]._modules['a']` for what a user calls blocks.0.a."""
    path = re.sub(r"^L\[['\"]self['\"]\]\.?", "", path)
    path = path.replace("_modules", "").replace("_export_root", "").replace("L__self__", "")
    path = re.sub(r"\[['\"]?([^'\"\]]+)['\"]?\]", r".\1", path)
    return re.sub(r"\.+", ".", path).strip(".")
