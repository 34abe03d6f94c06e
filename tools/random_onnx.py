"""Holds the ONNX frontend against ONNX Runtime on random graphs: `--count 300 --start 0`.

A graph has some nodes of random ops, attributes, shapes and types, each reading inputs of the graph
or what nodes before it made, and every value is an output. Nodes that ONNX Runtime refuses are left
out. A refusal of ours is counted; other numbers, shapes or errors are printed with their seed, and
a node alone with `--start SEED --count 1 --show`. Exits 1 for any.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper
from random_onnx_nodes import NODES, Graph

OPSET = 20
MOST_TRIES = 20
"""Nodes made for each that is kept; about two are."""


def reference(graph: Graph, nodes: list[Any], names: list[str]) -> tuple[bytes, list[np.ndarray]]:
    """The model of these nodes, and what ONNX Runtime says its outputs are."""
    element = helper.np_dtype_to_tensor_dtype
    made = helper.make_graph(
        nodes,
        "random",
        [
            helper.make_tensor_value_info(n, element(v.dtype), v.shape)
            for n in graph.inputs
            if (v := graph.values[n]) is not None
        ],
        [helper.make_empty_tensor_value_info(n) for n in names],
        [numpy_helper.from_array(v, n) for n, v in graph.constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    source = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    read = {i.name for i in session.get_inputs()}
    feeds = {n: graph.values[n] for n in graph.inputs if n in read}
    return source, session.run(names, feeds)


def random_graph(seed: int, count: int) -> tuple[Graph, list[tuple[Any, list[str]]]]:
    """Nodes that ONNX Runtime takes, each with the names of its outputs."""
    graph, kept = Graph(np.random.default_rng(seed)), []
    for _ in range(MOST_TRIES * count):
        if len(kept) == count:
            return graph, kept
        op, inputs, attributes = graph.pick(*NODES)(graph)
        outputs = {"TopK": 2, "LSTM": 3, "GRU": 2, "RNN": 2}.get(op, 1)
        if op == "Split":
            outputs = attributes.get("num_outputs", 2)
        names = [f"n{len(kept)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, inputs, names, **attributes)
        try:
            _, values = reference(graph.alone(inputs), [node], names)
        except Exception:  # ONNX Runtime has no kernel for it, or calls it wrong
            continue
        finite = all(np.isfinite(v).all() and np.abs(v).max(initial=0) < 1e4 for v in values)
        if any(v.size > 5000 for v in values) or not finite:
            continue
        graph.values.update(zip(names, values, strict=True))
        kept.append((node, names))
    raise SystemExit(f"ONNX Runtime refuses nearly all: {len(kept)} of {MOST_TRIES * count} nodes")


def disagreement(graph: Graph, nodes: list[tuple[Any, list[str]]]) -> str:
    """ "" when ours gives what ONNX Runtime gives, "refused …", or what is wrong."""
    from anychip.compilers.xla import XlaTarget
    from anychip.core import CompileOptions, UnsupportedError
    from anychip.frontends.onnx import load

    names = [name for _, outputs in nodes for name in outputs]
    try:
        source, wanted = reference(graph, [node for node, _ in nodes], names)
        module = load(source)
        feeds = [graph.values[a.name] for a in module.signature.named("input")]
        got = XlaTarget().compile(module, CompileOptions()).run(*feeds)
    except UnsupportedError as error:
        return f"refused {str(error).splitlines()[-1].strip()}"
    except Exception as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    for name, have, want in zip(names, got, wanted, strict=True):
        have = np.asarray(have)
        if (have.dtype, have.shape) != (want.dtype, want.shape):
            return f"{name}: {have.dtype}{have.shape}, expected {want.dtype}{want.shape}"
        error = np.abs(have.astype("f8") - want.astype("f8")).max(initial=0)
        bound = 1e-4 * max(np.abs(want.astype("f8")).max(initial=0), 1e-3) * len(nodes)
        if not error <= bound:  # NaN is no agreement
            return f"{name}: off by {error:.3g} of {np.abs(want).max():.3g}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="print the nodes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    wrong, refused, total = 0, 0, 0
    for seed in range(options.start, options.start + options.count):
        graph, nodes = random_graph(seed, options.nodes)
        total += len(nodes)
        if options.show:
            print(*(helper.printable_node(node) for node, _ in nodes), sep="\n")
        if not (together := disagreement(graph, nodes)):
            continue
        is_found = False
        for node, names in nodes:  # which of them
            alone = graph.alone(node.input)
            said = disagreement(alone, [(node, names)])
            refused += said.startswith("refused")
            wrong += bool(said) and not said.startswith("refused")
            is_found |= bool(said)
            if said:
                shapes = ", ".join(
                    f"{graph.values[i].dtype}{list(graph.values[i].shape)}" for i in alone.inputs
                )
                held = {i: v.tolist() for i, v in alone.constants.items()}
                print(
                    f"{seed} {helper.printable_node(node)} on {shapes} {held}: {said}", flush=True
                )
        if not is_found:
            wrong += 1
            print(f"{seed} only all nodes together: {together}", flush=True)
    print(f"{total} nodes: {wrong} wrong, {refused} refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
