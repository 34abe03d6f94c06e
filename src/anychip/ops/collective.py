"""Ops between replicas and partitions.

One program alone is one replica and one partition. Several are emulated by `jax.vmap` over
`evaluate` with `axis_name="replica"` or `"partition"` (partition innermost when both):
`jax.vmap(lambda x: evaluate(module, x), axis_name="replica")(stacked)`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.errors import UnsupportedError
from anychip.ops.case import case
from anychip.ops.count import moved, nothing, region
from anychip.ops.reduce import combine
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work


def _axis(name: str) -> tuple[Any, int]:
    """This process's index along an axis, and the axis's size: 0 of 1 when nobody maps over it."""
    try:
        return lax.axis_index(name), lax.axis_size(name)
    except NameError:
        return 0, 1


def _me() -> tuple[Any, int, int]:
    """This process's number, how many replicas there are, and how many partitions."""
    (replica, replicas), (partition, partitions) = _axis("replica"), _axis("partition")
    return replica * partitions + partition, replicas, partitions


def _everyone(x: Any) -> Any:
    """x of every process, [processes, …]; process = replica · partitions + partition."""
    for name in ("partition", "replica"):
        x = lax.all_gather(x, name) if _axis(name)[1] > 1 else x[None]
    return x.reshape(-1, *x.shape[2:])


def process_groups(op: OpView, replicas: int, partitions: int) -> list[list[int]]:
    """Which processes work together: the specification's section "Process grouping".

    Processes of replicas × all partitions are ordered replica by replica, as the reference
    interpreter and XLA do it (the specification's example has partition by partition).
    """
    listed = [
        [int(i) for i in row if i >= 0] for row in np.asarray(op.attributes["replica_groups"])
    ]
    listed = [row for row in listed if row] or [list(range(replicas))]
    has_channel = _channel(op) > 0
    if op.attributes.get("use_global_device_ids"):
        return listed
    if not has_channel:
        return [[r * partitions + p for r in row] for row in listed for p in range(partitions)]
    if op.name in ("stablehlo.all_to_all", "stablehlo.collective_broadcast"):
        return [[r * partitions + p for p in row] for row in listed for r in range(replicas)]
    return [[r * partitions + p for r in row for p in range(partitions)] for row in listed]


def _channel(op: OpView) -> int:
    text = str(op.attributes.get("channel_handle", ""))
    return int(text.split("handle = ")[1].split(",")[0]) if "handle = " in text else 0


def _members(op: OpView, x: Any) -> tuple[Any, Any]:
    """x of my group's members in order, [members, …], and my place among them.

    Raises UnsupportedError for groups of different sizes, which have no common result type.
    """
    me, replicas, partitions = _me()
    rows = process_groups(op, replicas, partitions)
    if len({len(row) for row in rows}) > 1:
        raise UnsupportedError(f"{op} has groups of different sizes: {rows}")
    table = np.zeros((replicas * partitions, len(rows[0])), np.int32)
    place = np.zeros(replicas * partitions, np.int32)
    for row in rows:
        for index, process in enumerate(row):
            if process >= replicas * partitions:
                raise UnsupportedError(
                    f"{op} asks for process {process}, but there are {replicas} replicas and "
                    f"{partitions} partitions; map evaluate over the axis 'replica' or 'partition'"
                )
            table[process], place[process] = row, index
    return _everyone(x)[jnp.asarray(table)[me]], jnp.asarray(place)[me]


def _group_size(op: OpView) -> int:
    """Members of a group as far as the op itself tells; 1 when it means all replicas."""
    listed = op.attributes.get("replica_groups")
    return max(1, listed.shape[-1]) if isinstance(listed, np.ndarray) else 1


def _mesh_groups(op: OpView) -> str:
    if isinstance(op.attributes["replica_groups"], np.ndarray):
        return ""
    return "its groups are axes of a mesh; lower the module with explicit replica groups"


def _groups(rows: str, shape: str, channel: int = 0, *, is_global: bool = False) -> str:
    text = f"replica_groups = dense<{rows}> : tensor<{shape}xi64>"
    if channel:
        text += f", channel_handle = #stablehlo.channel_handle<handle = {channel}, type = 0>"
    return text + (", use_global_device_ids" if is_global else "")


_ALONE = _groups("0", "1x1")
_PAIR = _groups("[[0, 1]]", "1x2")
_BOTH = _groups("[[0, 1]]", "1x2", 1)
# Attributes, processes by group, replicas, partitions: one row for each process grouping.
_GRIDS = (
    (_PAIR, [[0, 1]], 2, 1),
    (_groups("[[0, 2], [1, 3]]", "2x2"), [[0, 2], [1, 3]], 4, 1),
    (_PAIR, [[0, 2], [1, 3]], 2, 2),
    (_BOTH, [[0, 1, 2, 3]], 2, 2),
    (_groups("[[0, 3], [2, 1]]", "2x2", 1, is_global=True), [[0, 3], [2, 1]], 2, 2),
    (_groups("0", "1x1", 1), [[0, 1]], 1, 2),
)
_THREADS = "it runs as many processes at once as there are cores, and this needs four"


def _by_group(rows: list[list[int]], together: Any) -> Any:
    """NumPy's answer: `together` of the operands of each process's group."""

    def expect(x: np.ndarray) -> np.ndarray:
        flat = x.reshape(-1, *x.shape[2:])
        group = {process: row for row in rows for process in row}
        done = [together([flat[m] for m in group[p]]) for p in range(len(flat))]
        return np.stack(done).reshape(*x.shape[:2], *done[0].shape)

    return expect


@op(
    "stablehlo.all_gather",
    unit="collective",
    work=moved,
    cases=[
        case(
            "f32[2,3]",
            attributes=f"all_gather_dim = 1 : i64, {_ALONE}",
            expect=lambda x: x,
            replicas=1,
        ),
        *(
            case(
                "i64[2,2]",
                out=f"i64[2,{2 * len(rows[0])}]",
                attributes=f"all_gather_dim = 1 : i64, {text}",
                expect=_by_group(rows, lambda parts: np.concatenate(parts, 1)),
                replicas=replicas,
                partitions=partitions,
                skip_reference=_THREADS if replicas * partitions > 2 else "",
            )
            for text, rows, replicas, partitions in _GRIDS
        ),
    ],
    refusal=_mesh_groups,
)
def all_gather(op: OpView, *operands: Any) -> tuple[Any, ...]:
    """The group's operands joined along `all_gather_dim`."""
    return tuple(_joined(_members(op, x)[0], op.attributes["all_gather_dim"]) for x in operands)


def _joined(members: Any, dimension: int) -> Any:
    return jnp.concatenate(list(members), axis=dimension)


def _all_reduce_work(op: OpView) -> Work:
    combined = sum(s.size for s in op.inputs) * (_group_size(op) - 1)
    return moved(op) + region(op.regions[0]) * combined


@op(
    "stablehlo.all_reduce",
    unit="collective",
    work=_all_reduce_work,
    cases=[
        case(
            "f32[4]",
            attributes=_ALONE,
            region=combine("f32", "add"),
            expect=lambda x: x,
            replicas=1,
        ),
        *(
            case(
                "i32[3]",
                attributes=text,
                region=combine("i32", "add"),
                expect=_by_group(rows, sum),
                replicas=replicas,
                partitions=partitions,
                skip_reference=_THREADS if replicas * partitions > 2 else "",
            )
            for text, rows, replicas, partitions in _GRIDS
        ),
    ],
    refusal=_mesh_groups,
)
def all_reduce(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> tuple[Any, ...]:
    """The group's operands combined by the region, in the order of the group."""
    return tuple(_folded(_members(op, x)[0], bodies[0]) for x in operands)


def _folded(members: Any, body: Any) -> Any:
    elementwise = jax.vmap(lambda x, y: body(x, y)[0])
    flat = members.reshape(members.shape[0], -1)
    total = flat[0]
    for one in flat[1:]:
        total = elementwise(total, one)
    return total.reshape(members.shape[1:])


@op(
    "stablehlo.cross-replica-sum",
    unit="collective",
    work=lambda op: moved(op) + Work(flops=op.inputs[0].size * (_group_size(op) - 1)),
    cases=[
        case("f32[4]", attributes=_ALONE, expect=lambda x: x, replicas=1),
        case(
            "f32[4]",
            attributes=_PAIR,
            expect=lambda x: np.broadcast_to(x.sum(0), x.shape),
            replicas=2,
        ),
    ],
    reference="it has no rule for this op",
)
def cross_replica_sum(op: OpView, x: Any) -> Any:
    """The sum of the group's operands."""
    return jnp.sum(_members(op, x)[0], axis=0, dtype=x.dtype)


@op(
    "stablehlo.reduce_scatter",
    unit="collective",
    work=_all_reduce_work,
    cases=[
        case(
            "f32[4,2]",
            attributes=f"scatter_dimension = 0 : i64, {_ALONE}",
            region=combine("f32", "add"),
            expect=lambda x: x,
            replicas=1,
        ),
        case(
            "i64[2,4]",
            out="i64[2,2]",
            attributes=f"scatter_dimension = 1 : i64, {_PAIR}",
            region=combine("i64", "add"),
            replicas=2,
        ),
    ],
    refusal=_mesh_groups,
)
def reduce_scatter(op: OpView, x: Any, bodies: tuple[Any, ...]) -> Any:
    """all_reduce, of which each member keeps its own part along `scatter_dimension`."""
    members, place = _members(op, x)
    dimension = op.attributes["scatter_dimension"]
    size = op.outputs[0].sizes[dimension]
    whole = _folded(members, bodies[0])
    return lax.dynamic_slice_in_dim(whole, place * size, size, dimension)


@op(
    "stablehlo.all_to_all",
    unit="collective",
    work=moved,
    cases=[
        case(
            "f32[2,4]",
            attributes="split_dimension = 1 : i64, concat_dimension = 0 : i64, "
            f"split_count = 1 : i64, {_ALONE}",
            expect=lambda x: x,
            replicas=1,
        ),
        case(
            "i64[2,4]",
            out="i64[4,2]",
            attributes="split_dimension = 1 : i64, concat_dimension = 0 : i64, "
            f"split_count = 2 : i64, {_PAIR}",
            replicas=2,
        ),
        case(
            "i64[2,4]",
            out="i64[4,2]",
            attributes="split_dimension = 1 : i64, concat_dimension = 0 : i64, "
            f"split_count = 2 : i64, {_BOTH}",
            replicas=1,
            partitions=2,
        ),
    ],
    refusal=_mesh_groups,
)
def all_to_all(op: OpView, *operands: Any) -> tuple[Any, ...]:
    """Each member cuts its operand and sends part i to member i, which joins what it gets."""
    return tuple(_exchanged(op, x) for x in operands)


def _exchanged(op: OpView, x: Any) -> Any:
    members, place = _members(op, x)
    split = op.attributes["split_dimension"]
    size = x.shape[split] // op.attributes["split_count"]
    mine = lax.dynamic_slice_in_dim(members, place * size, size, split + 1)
    return _joined(mine, op.attributes["concat_dimension"])


@op(
    "stablehlo.collective_broadcast",
    unit="collective",
    work=moved,
    cases=[
        case("f32[2]", attributes=_ALONE, expect=lambda x: x, replicas=1),
        case("i64[1,2]", attributes=_groups("[[1, 0]]", "1x2"), replicas=2),
        case(
            "i64[2]",
            attributes=_groups("[[2, 1]]", "1x2"),
            expect=lambda x: np.stack([0 * x[0], x[2], x[2], 0 * x[3]]),
            replicas=4,
            skip_reference=_THREADS,
        ),
        case("i64[1,2]", attributes=_BOTH, replicas=1, partitions=2),
    ],
    refusal=_mesh_groups,
)
def collective_broadcast(op: OpView, *operands: Any) -> tuple[Any, ...]:
    """The operand of the group's first member; zeros for processes in no group."""
    me, replicas, partitions = _me()
    source = np.full(replicas * partitions, -1, np.int32)
    for row in process_groups(op, replicas, partitions):
        source[row] = row[0]
    return tuple(_from(source, me, x) for x in operands)


def _from(source: np.ndarray, me: Any, x: Any) -> Any:
    """x of process source[me]; zeros where that is -1."""
    sender = jnp.asarray(source)[me]
    return jnp.where(sender < 0, jnp.zeros_like(x), _everyone(x)[jnp.maximum(sender, 0)])


@op(
    "stablehlo.collective_permute",
    unit="collective",
    work=moved,
    cases=[
        case(
            "f32[2]",
            attributes="source_target_pairs = dense<0> : tensor<1x2xi64>",
            expect=lambda x: x,
            replicas=1,
            skip_reference="it waits for ever for a partner that is the process itself",
        ),
        case(
            "f32[2]",
            attributes="source_target_pairs = dense<> : tensor<0x2xi64>",
            expect=np.zeros_like,
            replicas=1,
        ),
        case(
            "i64[2,2]",
            attributes="source_target_pairs = dense<[[0, 1]]> : tensor<1x2xi64>",
            replicas=2,
        ),
        case(
            "i64[2]",
            attributes="source_target_pairs = dense<[[0, 1], [1, 2]]> : tensor<2x2xi64>",
            expect=lambda x: np.stack([0 * x[0], x[0], x[1]]),
            replicas=3,
            skip_reference=_THREADS,
        ),
        case(
            "i64[2,2]",
            attributes="source_target_pairs = dense<[[0, 1], [1, 0]]> : tensor<2x2xi64>, "
            "channel_handle = #stablehlo.channel_handle<handle = 1, type = 0>",
            expect=lambda x: x[:, ::-1],
            replicas=2,
            partitions=2,
            skip_reference=_THREADS,
        ),
    ],
)
def collective_permute(op: OpView, x: Any) -> Any:
    """The operand of the process paired with this one as its source; zeros where there is none."""
    me, replicas, partitions = _me()
    source = np.full(replicas * partitions, -1, np.int32)
    for start, target in np.asarray(op.attributes["source_target_pairs"]):
        if _channel(op) > 0:  # pairs of partitions, within each replica
            for r in range(replicas):
                source[r * partitions + target] = r * partitions + start
        else:  # pairs of replicas, within each partition
            for p in range(partitions):
                source[target * partitions + p] = start * partitions + p
    return _from(source, me, x)


_SERIAL = "it aborts outside interpreter.run_parallel"


@op(
    "stablehlo.partition_id",
    unit="control",
    work=nothing,
    cases=[
        case(out="ui32[]", replicas=1, partitions=2, expect=lambda: np.array([[0, 1]])),
        case(out="ui32[]", expect=lambda: np.uint32(0), skip_reference=_SERIAL),
    ],
)
def partition_id(op: OpView) -> Any:
    """Which partition this is."""
    return jnp.asarray(_axis("partition")[0], np.uint32)


@op(
    "stablehlo.replica_id",
    unit="control",
    work=nothing,
    cases=[
        case(out="ui32[]", replicas=2, expect=lambda: np.array([[0], [1]])),
        case(out="ui32[]", expect=lambda: np.uint32(0), skip_reference=_SERIAL),
    ],
)
def replica_id(op: OpView) -> Any:
    """Which replica this is."""
    return jnp.asarray(_axis("replica")[0], np.uint32)


_ASYNC = f"""  %0 = "stablehlo.async_start"(%a0) ({{
  ^bb0(%x: tensor<2xf32>):
    %1 = "stablehlo.collective_broadcast"(%x) <{{{_ALONE}}}> : (tensor<2xf32>) -> tensor<2xf32>
    stablehlo.return %1 : tensor<2xf32>
  }}) : (tensor<2xf32>) -> !stablehlo.future<tensor<2xf32>>
  %2 = "stablehlo.async_done"(%0) : (!stablehlo.future<tensor<2xf32>>) -> tensor<2xf32>
  return %2 : tensor<2xf32>"""


def _async_work(op: OpView) -> Work:
    """What the started op asks; waiting for it asks nothing more."""
    from anychip.ops.table import OPS

    total = Work()
    for inner in op.regions[0].ops:
        total += OPS[inner.name].work(inner)
    return total


@op(
    "stablehlo.async_start",
    unit="collective",
    work=_async_work,
    cases=[case("f32[2]", body=_ASYNC, expect=lambda x: x, replicas=1)],
    reference="it has no rule for this op",
)
def async_start(op: OpView, *operands: Any, bodies: tuple[Any, ...]) -> Any:
    """The region's results, which async_done hands over; when they are computed is not said."""
    return (bodies[0](*operands),)


@op(
    "stablehlo.async_done",
    unit="control",
    work=nothing,
    cases=[case("f32[2]", body=_ASYNC, expect=lambda x: x, replicas=1)],
    reference="it has no rule for this op",
)
def async_done(op: OpView, future: Any) -> tuple[Any, ...]:
    """The results of the op that async_start began."""
    return future
