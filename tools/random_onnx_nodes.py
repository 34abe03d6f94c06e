"""Random ONNX nodes: ops, attributes, shapes and types, reading what a graph has so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

FLOAT, INT, BOOL = np.dtype("f4"), np.dtype("i8"), np.dtype("?")
UNARY = (
    "Abs Neg Ceil Floor Round Sqrt Exp Log Sin Cos Tan Atan Sinh Cosh Asinh Tanh Sigmoid Erf Relu "
    "Sign Reciprocal Softplus Softsign HardSwish HardSigmoid Elu Selu Celu Gelu LeakyRelu "
    "Mish ThresholdedRelu"
).split()
REDUCE = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceSumSquare"
).split()


@dataclass
class Graph:
    """Nodes so far, and the value of everything they can read, by name."""

    random: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def pick(self, *options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def some(self, kind: np.dtype = FLOAT, rank: int = -1, least: int = 0) -> str:
        """The name of a value of this type, and rank where one is given."""
        fit = [
            name
            for name, value in self.values.items()
            if value.dtype == kind
            and value.size
            and least <= value.ndim
            and rank in (-1, value.ndim)
        ]
        if fit and self.random.random() < 0.8:
            return self.pick(*fit)
        return self.input(
            self.shape(rank if rank >= 0 else int(self.random.integers(least, 5))), kind
        )

    def shape(self, rank: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.random.choice([1, 2, 3, 4, 5], rank))

    def input(self, shape: tuple[int, ...], kind: np.dtype = FLOAT) -> str:
        if kind == BOOL:
            value = self.random.random(shape) < 0.5
        elif kind == INT:
            value = self.random.integers(-6, 7, shape)
        else:
            value = self.random.standard_normal(shape) * 2
        name = f"x{len(self.inputs)}"
        self.inputs.append(name)
        self.values[name] = np.asarray(value, kind)
        return name

    def held(self, value: Any, kind: np.dtype) -> str:
        """An input of this value."""
        name = self.input(())
        self.values[name] = np.asarray(value, kind)
        return name

    def constant(self, value: Any, kind: str = "i8") -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, kind)
        return name

    def axis(self, name: str) -> int:
        rank = max(self.values[name].ndim, 1)
        return int(self.random.integers(-rank, rank))

    def axes(self, name: str) -> list[int]:
        rank = self.values[name].ndim
        count = int(self.random.integers(1, rank + 1)) if rank else 0
        chosen = self.random.permutation(rank)[:count]
        return [int(a) - (rank if self.random.random() < 0.4 else 0) for a in chosen]

    def alone(self, names: Iterable[str]) -> Graph:
        """A graph of these inputs only, to put one node in."""
        read = list(dict.fromkeys(names))
        return Graph(
            self.random,
            values=self.values,
            inputs=[name for name in read if name in self.values],
            constants={name: self.constants[name] for name in read if name in self.constants},
        )


def _unary(g: Graph) -> Any:
    return g.pick(*UNARY), [g.some()], {}


def _binary(g: Graph) -> Any:
    op = g.pick("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu", "Mod")
    kind = (
        INT if op == "Mod" or (op in ("Add", "Mul", "Max") and g.random.random() < 0.3) else FLOAT
    )
    a = g.some(kind)
    shape = list(g.values[a].shape)
    if g.random.random() < 0.6:  # what broadcasts against it
        shape = [1 if g.random.random() < 0.4 else n for n in shape]
        shape = shape[int(g.random.integers(len(shape) + 1)) :]
    pair = [a, g.input(tuple(shape), kind)]
    if op not in ("PRelu", "Pow", "Mod") and g.random.random() < 0.5:
        pair.reverse()
    fmod = {"fmod": g.pick(0, 1)} if op == "Mod" else {}
    return op, pair, fmod


def _compare(g: Graph) -> Any:
    a = g.some(g.pick(FLOAT, INT))
    op = g.pick("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
    return op, [a, g.input(g.values[a].shape[-1:], g.values[a].dtype)], {}


def _where(g: Graph) -> Any:
    a = g.some()
    return "Where", [g.some(BOOL), a, g.input(g.values[a].shape)], {}


def _reduce(g: Graph) -> Any:
    a = g.some()
    attributes = {"keepdims": g.pick(0, 1)}
    if g.random.random() < 0.2:
        attributes["noop_with_empty_axes"] = g.pick(0, 1)
        return g.pick(*REDUCE), [a], attributes
    return g.pick(*REDUCE), [a, g.constant(g.axes(a))], attributes


def _arg(g: Graph) -> Any:
    a = g.some(least=1)
    keys = {"axis": g.axis(a), "keepdims": g.pick(0, 1), "select_last_index": g.pick(0, 1)}
    return g.pick("ArgMax", "ArgMin"), [a], keys


def _softmax(g: Graph) -> Any:
    a = g.some(least=1)
    return g.pick("Softmax", "LogSoftmax", "Hardmax"), [a], {"axis": g.axis(a)}


def _cumsum(g: Graph) -> Any:
    a = g.some(least=1)
    keys = {"exclusive": g.pick(0, 1), "reverse": g.pick(0, 1)}
    return "CumSum", [a, g.constant(g.axis(a))], keys


def _transpose(g: Graph) -> Any:
    a = g.some()
    rank = g.values[a].ndim
    keys = (
        {}
        if not rank or g.random.random() < 0.3
        else {"perm": [int(i) for i in g.random.permutation(rank)]}
    )
    return "Transpose", [a], keys


def _reshape(g: Graph) -> Any:
    a = g.some()
    shape = list(g.values[a].shape)
    for i in range(len(shape) - 1):
        if g.random.random() < 0.5:
            shape[i], shape[i + 1] = 1, shape[i] * shape[i + 1]
    kept = [i for i, n in enumerate(shape) if n == g.values[a].shape[i]]
    if kept and g.random.random() < 0.5:
        shape[g.pick(*kept)] = 0
    if shape and g.random.random() < 0.6:
        shape[int(g.random.integers(len(shape)))] = -1
    return "Reshape", [a, g.constant(shape)], {}


def _squeeze(g: Graph) -> Any:
    a = g.some()
    if g.random.random() < 0.5:
        ones = [i for i, n in enumerate(g.values[a].shape) if n == 1]
        return "Squeeze", [a, *([g.constant(ones)] if ones and g.random.random() < 0.7 else [])], {}
    rank = g.values[a].ndim + 2
    axes = [int(i) for i in g.random.permutation(rank)[:2]]
    return "Unsqueeze", [a, g.constant([axes[0] - rank, axes[1]])], {}


def _flatten(g: Graph) -> Any:
    a = g.some()
    rank = g.values[a].ndim
    return "Flatten", [a], {"axis": int(g.random.integers(-rank, rank + 1))}


def _concat(g: Graph) -> Any:
    a = g.some(least=1)
    axis = g.axis(a)
    other = list(g.values[a].shape)
    other[axis] = g.pick(1, 2, 3)
    return "Concat", [a, g.input(tuple(other)), a], {"axis": axis}


def _split(g: Graph) -> Any:
    a = g.some(least=1)
    axis = g.axis(a)
    size = g.values[a].shape[axis]
    if g.random.random() < 0.5:
        return "Split", [a], {"axis": axis, "num_outputs": int(g.random.integers(1, size + 1))}
    first = int(g.random.integers(0, size + 1))
    return "Split", [a, g.constant([first, size - first])], {"axis": axis}


def _slice(g: Graph) -> Any:
    a = g.some(least=1)
    axes = g.axes(a)
    number = lambda: [int(n) for n in g.random.integers(-7, 8, len(axes))]  # noqa: E731
    steps = [int(n) for n in g.random.choice([-3, -2, -1, 1, 2, 3], len(axes))]
    ends = [g.pick(n, n, 1 << 40, -(1 << 40)) for n in number()]
    return "Slice", [a, *(g.constant(v) for v in (number(), ends, axes, steps))], {}


def _gather(g: Graph) -> Any:
    a = g.some(least=1)
    axis = g.axis(a)
    size = g.values[a].shape[axis]
    if g.random.random() < 0.5:
        indices = g.random.integers(-size, size, g.shape(g.pick(0, 1, 2)))
        return "Gather", [a, g.pick(g.constant(indices), g.held(indices, INT))], {"axis": axis}
    shape = list(g.values[a].shape)
    shape[axis] = g.pick(1, 3, 6)
    indices = g.random.integers(-size, size, shape)
    return "GatherElements", [a, g.held(indices, INT)], {"axis": axis}


def _scatter(g: Graph) -> Any:
    a = g.some(least=1)
    shape = g.values[a].shape
    indices = g.random.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    keys = {"axis": -1, "reduction": g.pick("none", "add", "mul", "max", "min")}
    return "ScatterElements", [a, g.held(indices, INT), g.input(shape)], keys


def _gather_nd(g: Graph) -> Any:
    a = g.some(least=2)
    shape = g.values[a].shape
    depth = int(g.random.integers(1, len(shape) + 1))
    indices = np.stack([g.random.integers(-n, n, (3, 2)) for n in shape[:depth]], -1)
    if g.random.random() < 0.5:
        return "GatherND", [a, g.held(indices, INT)], {}
    row = np.stack([np.arange(1) for _ in shape[:depth]], -1)
    update = g.input((1, *shape[depth:]))
    return "ScatterND", [a, g.held(row, INT), update], {"reduction": g.pick("none", "add", "mul")}


def _pad(g: Graph) -> Any:
    a = g.some(least=1)
    mode = g.pick("constant", "reflect", "edge", "wrap")
    axes = g.axes(a)
    low = -1 if mode == "constant" else 0
    pads = [int(n) for n in g.random.integers(low, 3, 2 * len(axes))]
    fill = g.constant(1.5, "f4") if mode == "constant" and g.random.random() < 0.7 else ""
    return "Pad", [a, g.constant(pads), fill, g.constant(axes)], {"mode": mode}


def _expand(g: Graph) -> Any:
    if g.random.random() < 0.5:
        a = g.some(least=1)
        return "Tile", [a, g.constant(g.random.integers(1, 4, g.values[a].ndim))], {}
    a = g.input(tuple(g.pick(1, n) for n in g.shape(2)))
    return "Expand", [a, g.constant([g.pick(1, 2), *(g.pick(1, n) for n in g.values[a].shape)])], {}


def _topk(g: Graph) -> Any:
    a = g.some(least=1)
    axis = g.axis(a)
    k = g.constant([int(g.random.integers(1, g.values[a].shape[axis] + 1))])
    return "TopK", [a, k], {"axis": axis, "largest": g.pick(0, 1)}


def _matmul(g: Graph) -> Any:
    a = g.some(least=1)
    inner = g.values[a].shape[-1]
    other = g.pick((inner,), (inner, 3), (*g.values[a].shape[:-2], inner, 2), (1, inner, 2))
    return "MatMul", [a, g.input(other)], {}


def _gemm(g: Graph) -> Any:
    m, k, n = g.shape(3)
    ta, tb = g.pick(0, 1), g.pick(0, 1)
    a, b = g.input((k, m) if ta else (m, k)), g.input((n, k) if tb else (k, n))
    c = [g.input(g.pick((n,), (m, 1), (1,), (m, n), ()))] if g.random.random() < 0.8 else []
    return "Gemm", [a, b, *c], {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 2.0}


def _window(g: Graph, axes: int) -> dict[str, Any]:
    keys: dict[str, Any] = {"kernel_shape": [int(n) for n in g.random.integers(1, 4, axes)]}
    if g.random.random() < 0.6:
        keys["strides"] = [int(n) for n in g.random.integers(1, 4, axes)]
    if g.random.random() < 0.4:
        keys["dilations"] = [int(n) for n in g.random.integers(1, 3, axes)]
    if g.random.random() < 0.3:
        keys["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        keys.pop("dilations", None)  # which ONNX Runtime leaves out of the padding
    elif g.random.random() < 0.7:
        keys["pads"] = [int(g.random.integers(0, n)) for n in keys["kernel_shape"] * 2]
    return keys


def _image(g: Graph, channels: int, axes: int) -> str:
    return g.input((g.pick(1, 2), channels, *(int(n) for n in g.random.integers(5, 10, axes))))


def _conv(g: Graph) -> Any:
    axes, group = g.pick(1, 2, 2, 3), g.pick(1, 1, 2, 4)
    keys = _window(g, axes) | {"group": group}
    inner, outer = group * g.pick(1, 2), group * g.pick(1, 2)
    bias = [g.input((outer,))] if g.random.random() < 0.5 else []
    if g.random.random() < 0.6:
        w = g.input((outer, inner // group, *keys["kernel_shape"]))
        return "Conv", [_image(g, inner, axes), w, *bias], keys
    strides = keys.get("strides", [1] * axes)
    if "auto_pad" in keys:  # beyond the kernel ONNX Runtime gives less than the standard's size
        strides = keys["strides"] = [
            min(s, k) for s, k in zip(strides, keys["kernel_shape"], strict=True)
        ]
    if "auto_pad" not in keys and g.random.random() < 0.4:
        keys["output_padding"] = [int(g.random.integers(0, s)) for s in strides]
    w = g.input((inner, outer // group, *keys["kernel_shape"]))
    return "ConvTranspose", [_image(g, inner, axes), w, *bias], keys


def _pool(g: Graph) -> Any:
    axes = g.pick(1, 2, 2, 3)
    op, keys = g.pick("MaxPool", "AveragePool", "LpPool"), _window(g, axes)
    keys["ceil_mode"] = g.pick(0, 1)
    if op == "AveragePool":
        keys["count_include_pad"] = g.pick(0, 1)
    return op, [_image(g, 2, axes)], keys


def _resize(g: Graph) -> Any:
    axes = 2
    a = _image(g, 2, axes)
    mode = g.pick("nearest", "linear", "cubic")
    where = g.pick(
        "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"
    )
    keys: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
    if mode == "nearest":
        keys["nearest_mode"] = g.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    elif g.random.random() < 0.3:
        keys["antialias"] = 1
    if mode == "cubic":
        keys |= {"cubic_coeff_a": g.pick(-0.75, -0.5), "exclude_outside": g.pick(0, 1)}
    # between corners of a fractional size ONNX Runtime parts from the standard's reference
    if where != "align_corners" and g.random.random() < 0.5:
        scales = [1.0, 1.0, *(g.pick(0.5, 0.7, 1.0, 1.5, 2.0, 2.6) for _ in range(axes))]
        return "Resize", [a, "", g.constant(scales, "f4")], keys
    sizes = [*g.values[a].shape[:2], *(int(n) for n in g.random.integers(2, 15, axes))]
    return "Resize", [a, "", "", g.constant(sizes)], keys


def _norm(g: Graph) -> Any:
    a = g.some(least=2)
    axis = g.axis(a)
    if g.random.random() < 0.6:
        tail = g.values[a].shape[axis:]
        return (
            "LayerNormalization",
            [a, g.input(tail), g.input(tail)],
            {"axis": axis, "epsilon": 1e-3},
        )
    x = _image(g, 4, g.pick(1, 2))
    if g.random.random() < 0.5:
        return "InstanceNormalization", [x, g.input((4,)), g.input((4,))], {}
    return "LRN", [x], {"size": g.pick(1, 2, 3), "alpha": 0.1, "bias": 1.5}


def _depth(g: Graph) -> Any:
    if g.random.random() < 0.5:
        return (
            "DepthToSpace",
            [g.input((1, 8, 2, 3))],
            {"blocksize": 2, "mode": g.pick("DCR", "CRD")},
        )
    return "SpaceToDepth", [g.input((2, 2, 4, 6))], {"blocksize": 2}


def _triangle(g: Graph) -> Any:
    a = g.some(least=2)
    return "Trilu", [a, g.constant(int(g.random.integers(-3, 4)))], {"upper": g.pick(0, 1)}


def _one_hot(g: Graph) -> Any:
    a = g.some(INT)
    keys = {"axis": int(g.random.integers(-g.values[a].ndim - 1, g.values[a].ndim + 1))}
    return "OneHot", [a, g.constant(5), g.constant([0.5, 2.0], "f4")], keys


def _grid(g: Graph) -> Any:
    x = _image(g, 2, 2)
    grid = g.input((g.values[x].shape[0], 3, 4, 2))
    keys = {
        "mode": g.pick("linear", "nearest", "cubic"),
        "padding_mode": g.pick("zeros", "border", "reflection"),
        "align_corners": g.pick(0, 1),
    }
    return "GridSample", [x, grid], keys


def _cast(g: Graph) -> Any:
    a = g.some(g.pick(FLOAT, INT, BOOL))
    to = g.pick(TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    return "Cast", [a], {"to": to}


def _logic(g: Graph) -> Any:
    a = g.some(BOOL)
    if g.random.random() < 0.3:
        return "Not", [a], {}
    return g.pick("And", "Or", "Xor"), [a, g.input(g.values[a].shape[-1:], BOOL)], {}


def _clip(g: Graph) -> Any:
    low = g.constant(-0.5, "f4") if g.random.random() < 0.7 else ""
    high = [g.constant(0.7, "f4")] if g.random.random() < 0.7 else []
    return "Clip", [g.some(), low, *high], {}


def _einsum(g: Graph) -> Any:
    a, b = g.input((2, 3, 4)), g.input((2, 4, 3))
    form = g.pick("bij,bjk->bik", "bij,bki->bjk", "aij,bji->ab", "...ij,...jk->...ik", "bij,bjk->k")
    if form == "bij,bki->bjk":
        b = g.input((2, 5, 3))
    return "Einsum", [a, b], {"equation": form}


def _recurrent(g: Graph) -> Any:
    op, way = g.pick("LSTM", "GRU", "RNN"), g.pick("forward", "reverse", "bidirectional")
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if way == "bidirectional" else 1
    steps, batch, size, hidden = 4, g.pick(1, 3), 3, g.pick(2, 5)
    keys: dict[str, Any] = {"direction": way, "hidden_size": hidden}
    wide = gates * hidden
    names = [g.input((steps, batch, size)), g.input((ways, wide, size))]
    names.append(g.input((ways, wide, hidden)))
    maybe = lambda shape: g.input(shape) if g.random.random() < 0.6 else ""  # noqa: E731
    names.append(maybe((ways, 2 * wide)))
    lengths = g.random.integers(1, steps + 1, batch) if g.random.random() < 0.5 else None
    names.append("" if lengths is None else g.held(lengths, np.dtype("i4")))
    names.append(maybe((ways, batch, hidden)))
    if op == "LSTM":
        names += [maybe((ways, batch, hidden)), maybe((ways, 3 * hidden))]
        keys |= {"input_forget": 1} if g.random.random() < 0.2 else {}
    if op == "GRU":
        keys["linear_before_reset"] = g.pick(0, 1)
    if g.random.random() < 0.3:
        keys["clip"] = 0.8
    if g.random.random() < 0.4:
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op] * ways
        keys["activations"] = [g.pick("Sigmoid", "Tanh", "Relu", "Softsign") for _ in range(count)]
    while not names[-1]:
        names.pop()
    return op, names, keys


def _quantised(g: Graph) -> Any:
    signed = bool(g.random.random() < 0.5)
    kind = np.dtype("i1" if signed else "u1")
    zero = g.held(g.pick(0, 3), kind)
    if g.random.random() < 0.4:
        a = g.some(least=1)
        return "QuantizeLinear", [a, g.constant(0.05, "f4"), zero], {}
    codes = g.held(g.random.integers(-128 if signed else 0, 128, g.shape(3)), kind)
    if g.random.random() < 0.5:
        if g.random.random() < 0.5:
            return "DequantizeLinear", [codes, g.constant(0.1, "f4"), zero], {}
        axis = g.axis(codes)
        scales = g.input((g.values[codes].shape[axis],))
        return "DequantizeLinear", [codes, scales], {"axis": axis}
    other = g.held(g.random.integers(0, 255, (g.values[codes].shape[-1], 4)), np.dtype("u1"))
    if g.random.random() < 0.5:
        return "MatMulInteger", [codes, other, *([zero] if g.random.random() < 0.5 else [])], {}
    scale = lambda value: g.constant(value, "f4")  # noqa: E731
    left, right = [codes, scale(0.02), zero], [other, scale(0.03), g.held(120, np.dtype("u1"))]
    return "QLinearMatMul", [*left, *right, scale(0.1), g.held(5, kind)], {}


def _whole(g: Graph) -> Any:
    if g.random.random() < 0.5:
        return g.pick("GlobalAveragePool", "GlobalMaxPool"), [_image(g, 2, g.pick(1, 2))], {}
    if g.random.random() < 0.5:
        return "Det", [g.input((2, 3, 3))], {}
    return "Shrink", [g.some()], {"lambd": 0.5, "bias": g.pick(0.0, 0.2)}


def _reverse(g: Graph) -> Any:
    batch = g.pick(0, 1)
    a = g.some(least=2)
    shape = g.values[a].shape
    lengths = g.random.integers(1, shape[1 - batch] + 1, shape[batch])
    return (
        "ReverseSequence",
        [a, g.held(lengths, INT)],
        {"batch_axis": batch, "time_axis": 1 - batch},
    )


def _boxes(g: Graph) -> Any:
    corners = g.random.random((3, 2)) * 4
    boxes = g.held(np.concatenate([corners, corners + g.random.random((3, 2)) * 6], 1), FLOAT)
    keys = {
        "mode": g.pick("avg", "max"),
        "output_height": g.pick(1, 3),
        "output_width": 2,
        "sampling_ratio": g.pick(0, 1, 2),
        "spatial_scale": g.pick(1.0, 0.5),
        "coordinate_transformation_mode": g.pick("half_pixel", "output_half_pixel"),
    }
    if keys["mode"] == "max":
        keys["sampling_ratio"] = 1  # ONNX Runtime's own warning: its other ones are wrong
    x = g.input((2, 2, 8, 8))
    return "RoiAlign", [x, boxes, g.held([0, 1, 1], INT)], keys


def _bits(g: Graph) -> Any:
    a = g.some(INT)
    op = g.pick("BitwiseAnd", "BitwiseOr", "BitwiseXor")
    return op, [a, g.input(g.values[a].shape[-1:], INT)], {}


def _crop(g: Graph) -> Any:
    a = g.some(least=2)
    axes = [int(i) for i in g.random.permutation(g.values[a].ndim)[:2]]
    return "CenterCropPad", [a, g.constant([g.pick(1, 2, 5), g.pick(3, 7)])], {"axes": axes}


def _statistics(g: Graph) -> Any:
    a = _image(g, 3, g.pick(1, 2))
    spread = g.held(g.random.random(3) + 0.5, FLOAT)
    return "BatchNormalization", [a, *(g.input((3,)) for _ in range(3)), spread], {"epsilon": 1e-3}


NODES = (
    _unary,
    _binary,
    _compare,
    _where,
    _reduce,
    _arg,
    _softmax,
    _cumsum,
    _transpose,
    _reshape,
    _squeeze,
    _flatten,
    _concat,
    _split,
    _slice,
    _gather,
    _scatter,
    _gather_nd,
    _pad,
    _expand,
    _topk,
    _matmul,
    _gemm,
    _conv,
    _pool,
    _resize,
    _norm,
    _depth,
    _triangle,
    _one_hot,
    _grid,
    _cast,
    _logic,
    _clip,
    _einsum,
    _recurrent,
    _quantised,
    _whole,
    _reverse,
    _boxes,
    _bits,
    _crop,
    _statistics,
)
"""Each makes (op, names of inputs, attributes) from what a graph has."""
