"""Where an op comes from: the layer's path in the user's model and the user's source line.

Frontends write both into the op's MLIR name: `jax.named_scope("model.layers.3.mlp#17")`, where 17
indexes the module's table of source lines. JAX's own call sites serve when there is no `#`.
(Not `@`: XLA cuts an op's name there, and the profile would lose what follows.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """`layer` is a path such as `model.layers.3.mlp` ("" at the top); `source` is `file:line`."""

    layer: str = ""
    source: str = ""

    def __str__(self) -> str:
        if self.layer and self.source:
            return f"{self.layer} ({self.source})"
        return self.layer or self.source or "unknown"

    def inside(self, caller: Origin) -> Origin:
        """This origin, seen from inside a function that `caller` calls."""
        layer = "/".join(part for part in (caller.layer, self.layer) if part)
        return Origin(layer, self.source or caller.source)


def scope(layer: str, source_index: int | None = None) -> str:
    """The name to pass to `jax.named_scope` for ops of `layer`."""
    clean = layer.replace("/", ".").replace("@", "_").replace("#", "_")
    return clean if source_index is None else f"{clean}#{source_index}"


_NAME = re.compile(r'^loc\((?:fused\[)?"((?:[^"\\]|\\.)*)"')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(:?)')  # what a colon follows is a file
_FILE = re.compile(r'"((?:[^"\\]|\\.)+)":(\d+):\d+')
_WRAPPER = re.compile(
    r"^(jit|vmap|jvp|transpose|pjit|checkpoint|shard_map|closed_call|(Stateful)?PartitionedCall)"
    r"(\(.*\))?$"
)
_CONTROL = re.compile(r"(?<![^/])(?:cond/branch_\d+_fun|while/(?:body|cond))/")  # JAX's own names
_OURS = ("/anychip/frontends/", "/anychip/ops/", "/jax/", "/site-packages/", "dummy_file_name")


def parse(location: str, sources: tuple[str, ...] = ()) -> Origin:
    """Read an op's `str(op.location)`. An inlined op's is `callsite("inner" at "outer")`."""
    if location.startswith("loc(callsite("):
        names = [f'loc("{name}")' for name, colon in _QUOTED.findall(location) if not colon]
        inlined = Origin()
        for name in reversed(names):  # outermost first
            inlined = parse(name, sources).inside(inlined)
        return inlined if inlined.source else Origin(inlined.layer, _first_file(location))
    match = _NAME.match(location)
    layers: list[str] = []
    source = ""
    if match and not _FILE.match(location[4:]):
        for part in _CONTROL.sub("", match[1]).split("/")[
            :-1
        ]:  # the last part is the primitive's name
            name, mark, index = part.rpartition("#")
            if mark and index.isdigit():
                if int(index) < len(sources):
                    source = sources[int(index)]
                part = name
            if part and not _WRAPPER.match(part):
                layers.append(part)
    return Origin("/".join(layers), source or _first_file(location))


def _first_file(location: str) -> str:
    """The innermost place in a file that is not ours or a library's."""
    files = [(f, n) for f, n in _FILE.findall(location) if not any(o in f for o in _OURS)]
    return f"{files[0][0]}:{files[0][1]}" if files else ""
