"""The table ONNX op → rule, and what a rule sees of its node. The rules are in rules/.

A rule is a function of a Call and the node's inputs. Inputs arrive as JAX arrays; those at
positions in `known` arrive as numpy arrays (sizes that are symbolic as an object array). A rule
that `folds` computes with `call.xp` only, so that it also runs on numpy when all inputs are known;
one that is `eager` then runs under JAX at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.graph import Graph, Node

MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"

Positions = tuple[int, ...]


class Evaluator(Protocol):
    """What rules with subgraphs may ask of the evaluation around them."""

    def subgraph(self, graph: Graph, inputs: Sequence[Any]) -> list[Any]:
        """Evaluate a subgraph on these values; it sees the names around it."""
        ...

    def traced(self, value: Any) -> Any:
        """The value as a JAX array."""
        ...

    seed: int | None
    turns_left: int
    """How many more loop turns may be unrolled."""
    symbolic: bool
    """Whether any size of the model is symbolic."""


@dataclass(frozen=True)
class Call:
    """One node on its way through its rule. `xp` is numpy while folding, else jax.numpy."""

    node: Node
    xp: Any
    evaluator: Evaluator

    @property
    def version(self) -> int:
        return self.node.version

    @property
    def outputs(self) -> int:
        """How many outputs the node names (a rule may return more)."""
        return len(self.node.outputs)

    def wants(self, index: int) -> bool:
        """Whether output `index` is used."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def required(self, name: str) -> Any:
        """An attribute without a default. Raises InputError when it is missing."""
        if name not in self.node.attributes:
            raise InputError(f"{self.node.kind} lacks attribute {name!r}", field=self.node.label)
        return self.node.attributes[name]

    def composite(self, one: Any, *arrays: Any, **attributes: Any) -> Any:
        """Emit a composite; its plain body in a model with symbolic sizes.

        JAX hands those sizes to every function, a composite's body included, and then fails.
        """
        import jax

        if not self.evaluator.symbolic:
            return one(*arrays, **attributes)
        with jax.named_scope(one.full_name):
            return one.body(*arrays, **attributes)

    def unsupported(self, why: str) -> UnsupportedError:
        """The error of a rule; the evaluator adds node, file and the other failures."""
        return UnsupportedError(why)


Rule = Callable[..., Any]


@dataclass(frozen=True)
class Entry:
    """One row of the table. `known` may depend on the node (`If` it has scan outputs, …)."""

    rule: Rule
    known: Positions | Callable[[Node], Positions] = ()
    folds: bool = False
    eager: bool = False  # runs under JAX while loading when all inputs are known and small
    raw: bool = False  # takes values as they are: numpy, Sizes, lists, weights

    def known_positions(self, node: Node) -> Positions:
        positions = self.known(node) if callable(self.known) else self.known
        if positions == ALL:
            return tuple(range(len(node.inputs)))
        return positions


ALL: Positions = (-1,)
"""Every input must be known."""

TABLE: dict[tuple[str, str], Entry] = {}
"""(domain, op) → entry. Filled once, by importing the rule files."""

EXPLAINED: dict[tuple[str, str], str] = {}
"""(domain, op) → why no chip runs it and what would work."""


def op(
    *names: str,
    domain: str = "",
    known: Positions | Callable[[Node], Positions] = (),
    folds: bool = False,
    eager: bool = False,
    raw: bool = False,
) -> Callable[[Rule], Rule]:
    """Enter a rule for these ops."""

    def enter(rule: Rule) -> Rule:
        for name in names:
            assert (domain, name) not in TABLE, f"{domain}.{name} is entered twice"
            TABLE[domain, name] = Entry(rule, known, folds, eager, raw)
        return rule

    return enter


def explain(*names: str, why: str, domain: str = "") -> None:
    """Say why these ops have no rule."""
    for name in names:
        EXPLAINED[domain, name] = why


def sizes(values: Any) -> tuple[Any, ...]:
    """A known vector as dimensions: Python ints and symbolic expressions."""
    flat = np.asarray(values).reshape(-1)
    return tuple(v if flat.dtype == object else int(v) for v in flat)


def ints(values: Any) -> list[int]:
    """A known vector of plain integers. Raises UnsupportedError when one is symbolic."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype == object:
        bad = [str(v) for v in flat if not isinstance(v, int)]
        if bad:
            raise UnsupportedError(f"needs a fixed number where the model computes {bad[0]}")
    return [int(v) for v in flat]
