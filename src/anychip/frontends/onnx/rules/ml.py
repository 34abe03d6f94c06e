"""Classical models (ai.onnx.ml) on numbers: trees, linear models, scalers; TfIdfVectorizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.fold import bounded
from anychip.frontends.onnx.table import ML, Call, explain, op

explain(
    *("CastMap", "CategoryMapper", "DictVectorizer", "ZipMap"),
    domain=ML,
    why="works on maps or strings, which no chip computes on; "
    "export without it (skl2onnx: options={'zipmap': False})",
)
explain(
    *("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),
    why="works on strings, which no chip computes on; turn text into numbers before the model",
)

_MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER", "LEAF")


@dataclass(frozen=True)
class _Forest:
    """Nodes of all trees in one table; a leaf points to itself."""

    roots: np.ndarray
    feature: np.ndarray
    mode: np.ndarray  # index into _MODES
    value: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    nan_yes: np.ndarray
    members: np.ndarray  # [nodes, longest], NaN where there are fewer
    votes: np.ndarray  # [nodes, targets]
    voted: np.ndarray  # [nodes, targets], whether the leaf votes for the target

    def leaves(self, x: Any) -> Any:
        """The leaf each row of x[N, F] reaches in each tree: [N, trees]."""
        at = jnp.broadcast_to(jnp.asarray(self.roots), (x.shape[0], len(self.roots)))
        for _ in range(self.depth()):
            value = jnp.take_along_axis(x, jnp.asarray(self.feature)[at], axis=1)
            answer = self._compare(value, at)
            at = jnp.where(answer, jnp.asarray(self.yes)[at], jnp.asarray(self.no)[at])
        return at

    def _compare(self, value: Any, at: Any) -> Any:
        split, mode = jnp.asarray(self.value)[at], jnp.asarray(self.mode)[at]
        tests = [value <= split, value < split, value >= split, value > split]
        tests += [value == split, value != split]
        if self.members.shape[1]:
            inside = jnp.asarray(self.members)[at] == value[..., None]
            tests.append(jnp.any(inside, axis=-1))
        answer = jnp.zeros(value.shape, bool)
        for index, test in enumerate(tests):
            answer = jnp.where(mode == index, test, answer)
        return answer | (jnp.asarray(self.nan_yes)[at] & jnp.isnan(value))

    def depth(self) -> int:
        """Steps from the roots to the deepest leaf. Raises InputError for a cycle."""
        level = np.unique(self.roots)
        for steps in range(len(self.feature) + 1):
            inner = level[self.mode[level] != _MODES.index("LEAF")]
            if not len(inner):
                return steps
            level = np.unique(np.concatenate([self.yes[inner], self.no[inner]]))
        raise InputError("the trees have a cycle")

    def scores(self, x: Any, aggregate: str) -> Any:
        """[N, targets] in x's type."""
        leaves = self.leaves(x)
        votes, voted = jnp.asarray(self.votes)[leaves], jnp.asarray(self.voted)[leaves]
        if aggregate in ("SUM", "AVERAGE"):
            total = jnp.sum(votes, axis=1)
            return total / len(self.roots) if aggregate == "AVERAGE" else total
        if aggregate not in ("MIN", "MAX"):
            raise InputError(f"aggregate {aggregate!r} is unknown")
        worst = np.inf if aggregate == "MIN" else -np.inf
        reduce = jnp.min if aggregate == "MIN" else jnp.max
        best = reduce(jnp.where(voted, votes, worst), axis=1)
        return jnp.where(jnp.any(voted, axis=1), best, 0)


def _numbers(call: Call, name: str, kind: Any = np.float32) -> np.ndarray:
    wide = call.attr(f"{name}_as_tensor")
    return np.asarray(
        call.attr(name, []) if wide is None else wide, None if wide is not None else kind
    )


def _old_forest(call: Call, prefix: str, targets: int) -> _Forest:
    """The table of TreeEnsembleClassifier and -Regressor: nodes named by (tree, node)."""
    trees, ids = call.required("nodes_treeids"), call.required("nodes_nodeids")
    index = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
    modes = [m.removeprefix("BRANCH_") for m in call.required("nodes_modes")]
    mode = np.array([_MODES.index(m) for m in modes])
    own = np.arange(len(trees))
    bounded(len(trees) * targets, "a table of votes")
    leaf = mode == _MODES.index("LEAF")

    def links(name: str) -> np.ndarray:
        ends = call.required(name)
        return np.array(
            [
                index[t, n] if not is_leaf else i
                for i, (t, n, is_leaf) in enumerate(zip(trees, ends, leaf, strict=True))
            ]
        )

    values = _numbers(call, "nodes_values")
    votes = np.zeros((len(trees), targets), values.dtype)
    voted = np.zeros((len(trees), targets), bool)
    weights = _numbers(call, f"{prefix}_weights")
    for t, n, target, weight in zip(
        call.required(f"{prefix}_treeids"),
        call.required(f"{prefix}_nodeids"),
        call.required(f"{prefix}_ids"),
        weights,
        strict=True,
    ):
        votes[index[t, n], target] += weight
        voted[index[t, n], target] = True
    pointed = set(links("nodes_truenodeids")[~leaf]) | set(links("nodes_falsenodeids")[~leaf])
    roots = np.array([i for i in own if i not in pointed])
    missing = call.attr("nodes_missing_value_tracks_true") or [0] * len(trees)
    return _Forest(
        roots=roots,
        feature=np.asarray(call.required("nodes_featureids")),
        mode=mode,
        value=values,
        yes=links("nodes_truenodeids"),
        no=links("nodes_falsenodeids"),
        nan_yes=np.asarray(missing, bool),
        members=np.zeros((len(trees), 0), values.dtype),
        votes=votes,
        voted=voted,
    )


@op("TreeEnsemble", domain=ML)
def tree_ensemble(call: Call, x: Any) -> Any:
    """Nodes and leaves in two lists; here leaves follow the nodes in one table."""
    splits = np.asarray(call.required("nodes_splits"))
    count, weights = len(splits), np.asarray(call.required("leaf_weights"))
    total = count + len(weights)

    def links(which: str) -> np.ndarray:
        ends = np.asarray(call.required(f"nodes_{which}nodeids"))
        is_leaf = np.asarray(call.required(f"nodes_{which}leafs"), bool)
        return np.concatenate([ends + is_leaf * count, np.arange(count, total)])

    def padded(values: Any, fill: Any) -> np.ndarray:
        return np.concatenate([np.asarray(values), np.full(len(weights), fill)])

    mode = padded(np.asarray(call.required("nodes_modes"), np.int64), _MODES.index("LEAF"))
    targets = call.required("n_targets")
    bounded(total * targets, "a table of votes")
    votes, voted = np.zeros((total, targets), splits.dtype), np.zeros((total, targets), bool)
    leaf = np.arange(count, total)
    votes[leaf, call.required("leaf_targetids")] = weights
    voted[leaf, call.required("leaf_targetids")] = True
    missing = call.attr("nodes_missing_value_tracks_true") or [0] * count
    forest = _Forest(
        roots=np.asarray(call.required("tree_roots")),
        feature=padded(call.required("nodes_featureids"), 0),
        mode=mode,
        value=padded(splits, 0).astype(splits.dtype),
        yes=links("true"),
        no=links("false"),
        nan_yes=padded(missing, 0).astype(bool),
        members=_members(call, mode, total),
        votes=votes,
        voted=voted,
    )
    aggregate = ("AVERAGE", "SUM", "MIN", "MAX")[call.attr("aggregate_function", 1)]
    transform = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[
        call.attr("post_transform", 0)
    ]
    return _transformed(forest.scores(x, aggregate), transform).astype(x.dtype)


def _members(call: Call, mode: np.ndarray, total: int) -> np.ndarray:
    values = np.asarray(call.attr("membership_values", np.zeros(0, np.float32)))
    groups: list[list[float]] = [[]]
    for value in values:
        if np.isnan(value):
            groups.append([])
        else:
            groups[-1].append(value)
    at = np.flatnonzero(mode == _MODES.index("MEMBER"))
    out = np.full((total, max((len(g) for g in groups), default=0)), np.nan, values.dtype)
    for node, group in zip(at, groups, strict=False):
        out[node, : len(group)] = group
    return out


@op("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(call: Call, x: Any) -> Any:
    targets = call.attr("n_targets", 1)
    forest = _old_forest(call, "target", targets)
    scores = forest.scores(x.astype(forest.value.dtype), call.attr("aggregate_function", "SUM"))
    base = _numbers(call, "base_values")
    scores = scores + base if base.size else scores
    return _transformed(scores, call.attr("post_transform", "NONE")).astype(np.float32)


@op("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(call: Call, x: Any) -> Any:
    labels = _labels(call, "classlabels_int64s")
    voted = len(set(call.required("class_ids")))
    binary = len(labels) == 2 and voted == 1
    forest = _old_forest(call, "class", len(labels))
    scores = forest.scores(x.astype(forest.value.dtype), "SUM")
    base = _numbers(call, "base_values")
    if binary:
        column = scores[:, call.required("class_ids")[0]]
        column = column + (base[-1] if base.size else 0)
        return _binary(call, column, labels, all(w >= 0 for w in _numbers(call, "class_weights")))
    scores = scores + base if base.size else scores
    out = _transformed(scores, call.attr("post_transform", "NONE"))
    return jnp.asarray(labels)[jnp.argmax(scores, axis=1)], out.astype(np.float32)


def _binary(call: Call, score: Any, labels: np.ndarray, positive: bool) -> Any:
    """Two classes from one score, read as ONNX Runtime does: `positive` is a probability."""
    transform = call.attr("post_transform", "NONE")
    second = score > 0.5 if positive and transform == "NONE" else score > 0
    if transform == "LOGISTIC":
        both = jnp.stack([jax.nn.sigmoid(-score), jax.nn.sigmoid(score)], axis=1)
    elif transform == "NONE":
        both = jnp.stack([1 - score if positive else -score, score], axis=1)
    else:
        both = _transformed(jnp.stack([-score, score], axis=1), transform)
    return jnp.where(second, labels[1], labels[0]), both.astype(np.float32)


def _labels(call: Call, name: str) -> np.ndarray:
    if call.attr("classlabels_strings"):
        raise UnsupportedError(
            "answers with strings, which no chip computes on; train with integer labels"
        )
    return np.asarray(call.required(name), np.int64)


def _transformed(scores: Any, transform: str) -> Any:
    if transform in ("", "NONE"):
        return scores
    if transform == "LOGISTIC":
        return jax.nn.sigmoid(scores)
    if transform == "SOFTMAX":
        return jax.nn.softmax(scores, axis=-1)
    if transform == "SOFTMAX_ZERO":
        e = jnp.where(scores == 0, 0, jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)))
        return e / jnp.sum(e, axis=-1, keepdims=True)
    if transform == "PROBIT":
        return jax.scipy.special.ndtri(scores)
    raise InputError(f"post_transform {transform!r} is unknown")


@op("LinearRegressor", domain=ML)
def linear_regressor(call: Call, x: Any) -> Any:
    targets = call.attr("targets", 1)
    weights = np.asarray(call.required("coefficients"), np.float32).reshape(targets, -1)
    bias = np.asarray(call.attr("intercepts", [0.0] * targets), np.float32)
    scores = x.astype(np.float32) @ weights.T + bias
    return _transformed(scores, call.attr("post_transform", "NONE"))


@op("LinearClassifier", domain=ML)
def linear_classifier(call: Call, x: Any) -> Any:
    labels = _labels(call, "classlabels_ints")
    bias = np.asarray(call.attr("intercepts", [0.0]), np.float32)
    weights = np.asarray(call.required("coefficients"), np.float32).reshape(len(bias), -1)
    scores = x.astype(np.float32) @ weights.T + bias
    if len(bias) == 1 and len(labels) == 2:
        return _binary(call, scores[:, 0], labels, False)
    out = _transformed(scores, call.attr("post_transform", "NONE"))
    return jnp.asarray(labels)[jnp.argmax(scores, axis=1)], out


@op("Scaler", domain=ML)
def scaler(call: Call, x: Any) -> Any:
    offset, scale = (
        np.asarray(call.attr(n, d), np.float32) for n, d in (("offset", [0.0]), ("scale", [1.0]))
    )
    return (x.astype(np.float32) - offset) * scale


@op("Normalizer", domain=ML)
def normalizer(call: Call, x: Any) -> Any:
    y = x.astype(np.float32)
    norm = call.attr("norm", "MAX")
    if norm == "MAX":
        size = jnp.max(jnp.abs(y), axis=-1, keepdims=True)
    elif norm == "L1":
        size = jnp.sum(jnp.abs(y), axis=-1, keepdims=True)
    else:
        size = jnp.sqrt(jnp.sum(y * y, axis=-1, keepdims=True))
    return jnp.where(size == 0, y, y / jnp.where(size == 0, 1, size))


@op("Imputer", domain=ML)
def imputer(call: Call, x: Any) -> Any:
    floats = x.dtype.kind == "f"
    value = call.required("imputed_value_floats" if floats else "imputed_value_int64s")
    old = call.attr("replaced_value_float" if floats else "replaced_value_int64", 0)
    missing = jnp.isnan(x) if floats and np.isnan(old) else x == old
    return jnp.where(missing, np.asarray(value, x.dtype), x)


@op("Binarizer", domain=ML)
def binarizer(call: Call, x: Any) -> Any:
    return (x > call.attr("threshold", 0.0)).astype(x.dtype)


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(call: Call, *xs: Any) -> Any:
    rows = [x.reshape(1, -1) if x.ndim == 1 else x for x in xs]
    return jnp.concatenate([r.astype(np.float32) for r in rows], axis=1)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(call: Call, x: Any) -> Any:
    categories = np.asarray(call.required("cats_int64s"), np.int64)
    return (x.astype(np.int64)[..., None] == categories).astype(np.float32)


@op("LabelEncoder", domain=ML)
def label_encoder(call: Call, x: Any) -> Any:
    keys = _first(call, ("keys_tensor", "keys_int64s", "keys_floats", "keys_strings"))
    values = _first(call, ("values_tensor", "values_int64s", "values_floats", "values_strings"))
    if keys.dtype == object or values.dtype == object:
        raise UnsupportedError("maps strings, which no chip computes on; use numbers as labels")
    fallback = call.attr("default_tensor")
    if fallback is None:
        name, other = ("default_int64", -1) if values.dtype.kind == "i" else ("default_float", -0.0)
        fallback = call.attr(name, other)
    same = x[..., None] == keys.astype(x.dtype)
    if keys.dtype.kind == "f":
        same = same | (jnp.isnan(x)[..., None] & np.isnan(keys))
    found = jnp.asarray(values)[jnp.argmax(same, axis=-1)]
    return jnp.where(jnp.any(same, axis=-1), found, np.asarray(fallback, values.dtype).reshape(()))


def _first(call: Call, names: Sequence[str]) -> np.ndarray:
    kinds = {"int64s": np.int64, "floats": np.float32, "strings": object}
    for name in names:
        value = call.attr(name)
        if value is not None and len(value):
            return np.asarray(value, kinds.get(name.split("_")[1]))
    raise InputError(f"none of {', '.join(names)} is given")


@op("TfIdfVectorizer")
def tf_idf_vectorizer(call: Call, x: Any) -> Any:
    """Count the pool's n-grams in each row, their items up to `max_skip_count` apart."""
    if call.attr("pool_strings"):
        raise UnsupportedError("counts strings, which no chip computes on; use pool_int64s")
    rows = x if x.ndim == 2 else x[None]
    pool, starts = call.required("pool_int64s"), call.required("ngram_counts")
    places = np.asarray(call.required("ngram_indexes"))
    shortest, longest = call.required("min_gram_length"), call.required("max_gram_length")
    out = jnp.zeros((rows.shape[0], int(places.max()) + 1), np.float32)
    gram = 0
    bounded(call.required("max_skip_count") * 1024, "a set of skips")
    for size, (start, end) in enumerate(
        zip(starts, [*starts[1:], len(pool)], strict=True), start=1
    ):
        grams = np.asarray(pool[start:end]).reshape(-1, size)
        own = places[gram : gram + len(grams)]
        gram += len(grams)
        if not len(grams) or not shortest <= size <= longest:
            continue
        for gap in range(1, 2 + (call.required("max_skip_count") if size > 1 else 0)):
            count = rows.shape[1] - gap * (size - 1)
            if count <= 0:
                break
            bounded(count * size, "a set of n-grams")
            at = np.arange(count)[:, None] + gap * np.arange(size)[None]
            hits = jnp.all(rows[:, at][:, :, None] == grams, axis=-1)
            out = out.at[:, own].add(jnp.sum(hits, axis=1).astype(np.float32))
    mode = call.required("mode")
    weights = np.ones(bounded(out.shape[1], "a set of n-grams"), np.float32)
    if (given := call.attr("weights")) is not None:
        weights[places] = given
    if mode == "IDF":
        out = jnp.minimum(out, 1)
    out = out if mode == "TF" else out * weights
    return out if x.ndim == 2 else out[0]
