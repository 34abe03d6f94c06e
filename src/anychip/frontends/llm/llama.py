"""GGUF's Llama family (Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3-MoE): what its keys and tensors
mean. Metadata becomes a TransformerConfig, tensors become the weights its modules take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from anychip.core.blocks import BLOCK_FORMATS
from anychip.core.dtypes import dtype
from anychip.core.errors import InputError, unknown
from anychip.core.language_model import Precision
from anychip.core.weights import Weight, Weights
from anychip.frontends.gguf_file import GGUF
from anychip.frontends.gguf_header import TensorEntry
from anychip.frontends.llm.config import MoE, TransformerConfig
from anychip.frontends.llm.precision import PRECISIONS
from anychip.frontends.llm.rope import Rope
from anychip.frontends.llm.weights import DENSE, WeightSpec, weight_specs


@dataclass(frozen=True)
class _Architecture:
    """What a `general.architecture` implies beyond its metadata.

    GGUF stores Llama's query and key rows in the order that rotates neighbours; the others keep
    the original order (convert_hf_to_gguf.py, `permute`).
    """

    interleaved: bool
    experts: bool = False


ARCHITECTURES: Mapping[str, _Architecture] = {
    "llama": _Architecture(interleaved=True, experts=True),
    "qwen2": _Architecture(interleaved=False),
    "qwen3": _Architecture(interleaved=False),
    "qwen3moe": _Architecture(interleaved=False, experts=True),
}

_TENSORS: Mapping[str, str] = {
    "attn_norm": "attn_norm.weight",
    "attn.q": "attn_q.weight",
    "attn.k": "attn_k.weight",
    "attn.v": "attn_v.weight",
    "attn.q.bias": "attn_q.bias",
    "attn.k.bias": "attn_k.bias",
    "attn.v.bias": "attn_v.bias",
    "attn.q_norm": "attn_q_norm.weight",
    "attn.k_norm": "attn_k_norm.weight",
    "attn.o": "attn_output.weight",
    "attn.o.bias": "attn_output.bias",
    "ffn_norm": "ffn_norm.weight",
    "ffn.gate": "ffn_gate.weight",
    "ffn.up": "ffn_up.weight",
    "ffn.down": "ffn_down.weight",
    "moe.router": "ffn_gate_inp.weight",
    "moe.gate": "ffn_gate_exps.weight",
    "moe.up": "ffn_up_exps.weight",
    "moe.down": "ffn_down_exps.weight",
}
"""A layer's weight → the tensor's name after `blk.{i}.`."""

_OUTSIDE_LAYERS = {
    "embed": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
}
_NOT_WEIGHTS = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight")


def tensor_name(weight: str) -> str:
    """The GGUF name of one of our weights (`layers.3.attn.q` → `blk.3.attn_q.weight`)."""
    if weight in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[weight]
    _, layer, rest = weight.split(".", 2)
    return f"blk.{layer}.{_TENSORS[rest]}"


def read_config(file: GGUF) -> TransformerConfig:
    """The shape facts of a file. Raises InputError, naming the key, for what cannot be."""
    name = file.text("general.architecture")
    if name not in ARCHITECTURES:
        raise file.fail("general.architecture", str(unknown("architecture", name, ARCHITECTURES)))
    if file.integer("split.count", 1, low=0) > 1:
        raise file.fail(
            "split.count", "is one part of a split model; merge the parts into one file"
        )
    if file.integer("general.quantization_version", 2, low=0) != 2:
        raise file.fail("general.quantization_version", "is an old one; convert the model again")
    entries = file.entries
    layers = file.integer(f"{name}.block_count", high=len(entries))
    hidden = file.integer(f"{name}.embedding_length")
    heads = file.integer(f"{name}.attention.head_count", high=hidden)
    if f"{name}.attention.key_length" not in file and hidden % heads:
        raise file.fail(
            f"{name}.attention.head_count", f"{heads} heads do not divide a width of {hidden}"
        )
    head_dim = file.integer(f"{name}.attention.key_length", hidden // heads)
    if file.integer(f"{name}.attention.value_length", head_dim) != head_dim:
        raise file.fail(
            f"{name}.attention.value_length", f"differs from the keys' length of {head_dim}"
        )
    embedding = _entry(file, "token_embd.weight")
    if len(embedding.shape) != 2:
        raise file.fail("tensor 'token_embd.weight'", f"is no matrix: {list(embedding.shape)}")
    moe = _read_experts(file, name)
    try:
        return TransformerConfig(
            family=name,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=file.integer(f"{name}.attention.head_count_kv", heads, high=heads),
            head_dim=head_dim,
            ffn=0 if moe else file.integer(f"{name}.feed_forward_length"),
            vocabulary=embedding.shape[0],
            context=file.integer(f"{name}.context_length"),
            rope=_read_rope(file, name, head_dim),
            norm_eps=file.number(f"{name}.attention.layer_norm_rms_epsilon", low=1e-12, high=1.0),
            qk_norm="blk.0.attn_q_norm.weight" in entries,
            qkv_bias="blk.0.attn_q.bias" in entries,
            output_bias="blk.0.attn_output.bias" in entries,
            tied_embeddings="output.weight" not in entries,
            window=file.integer(f"{name}.attention.sliding_window", 0, low=0),
            moe=moe,
        )
    except InputError as error:
        if error.path:
            raise
        raise InputError(str(error), path=str(file.path)) from None


def _read_rope(file: GGUF, name: str, head_dim: int) -> Rope:
    dim = file.integer(f"{name}.rope.dimension_count", head_dim, low=2, high=head_dim)
    scaling = file.text(f"{name}.rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn"):
        raise file.fail(
            f"{name}.rope.scaling.type",
            str(unknown("rope scaling", scaling, ("none", "linear", "yarn"))),
        )
    factors: tuple[float, ...] = ()
    if "rope_freqs.weight" in file.entries:
        entry = file.entries["rope_freqs.weight"]
        if entry.shape != (dim // 2,) or entry.format != "f32":
            raise file.fail(
                "tensor 'rope_freqs.weight'",
                f"should be f32[{dim // 2}], it is {entry.format}{list(entry.shape)}",
            )
        values = file.array(entry)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise file.fail("tensor 'rope_freqs.weight'", "has factors that are not positive")
        factors = tuple(values.tolist())
    if scaling != "none" and file.number(f"{name}.rope.scaling.attn_factor", 1.0) != 1.0:
        raise file.fail(f"{name}.rope.scaling.attn_factor", "other than 1 is not known")
    return Rope(
        theta=file.number(f"{name}.rope.freq_base", 10000.0, low=1.0),
        dim=0 if dim == head_dim else dim,
        interleaved=ARCHITECTURES[name].interleaved,
        scaling=scaling,
        factor=file.number(f"{name}.rope.scaling.factor", 1.0) if scaling != "none" else 1.0,
        original_context=file.integer(f"{name}.rope.scaling.original_context_length", 0, low=0),
        frequency_factors=factors,
    )


def _read_experts(file: GGUF, name: str) -> MoE | None:
    experts = file.integer(f"{name}.expert_count", 0, low=0, high=1 << 12)
    if experts == 0 or not ARCHITECTURES[name].experts:
        if experts:
            raise file.fail(f"{name}.expert_count", f"{name} with experts is not known")
        return None
    feed_forward = f"{name}.feed_forward_length"
    own = f"{name}.expert_feed_forward_length"
    return MoE(
        experts=experts,
        active=file.integer(f"{name}.expert_used_count", high=experts),
        ffn=file.integer(own if own in file else feed_forward),
    )


def _entry(file: GGUF, name: str) -> TensorEntry:
    if name not in file.entries:
        raise file.fail(
            f"tensor {name!r}", "is missing; the file is incomplete, fetch or convert it again"
        )
    return file.entries[name]


def check_tensors(file: GGUF, config: TransformerConfig) -> Mapping[str, TensorEntry]:
    """Our weight names → the file's tensors: all there, of the right shape, and no others.

    Raises InputError naming the tensor.
    """
    found: dict[str, TensorEntry] = {}
    for spec in weight_specs(config, PRECISIONS["f32"]):
        name = tensor_name(spec.name)
        entry = found[spec.name] = _entry(file, name)
        if entry.shape != spec.shape:
            raise file.fail(
                f"tensor {name!r}",
                f"should be {list(spec.shape)} by the file's metadata, it is {list(entry.shape)}",
            )
        if entry.format not in DENSE and entry.format not in BLOCK_FORMATS:
            raise file.fail(f"tensor {name!r}", f"is {entry.format}, which no weight can be")
    known = {entry.name for entry in found.values()}
    for name in file.entries:
        if name not in known and not _NOT_WEIGHTS.fullmatch(name):
            raise file.fail(
                f"tensor {name!r}",
                f"has no place in a model of architecture {config.family}; "
                "this is a variant anychip does not know",
            )
    return found


def bind(
    file: GGUF, config: TransformerConfig, tensors: Mapping[str, TensorEntry], precision: Precision
) -> Weights:
    """The weights in a precision, read and converted when touched.

    A tensor already stored in the wanted format is taken as it is; any other is dequantised to f32
    and quantised anew, with one scale a row for f8 and i8.
    """
    stored = {name: entry.format for name, entry in tensors.items()}
    specs = weight_specs(config, precision, stored)
    return Weights(tuple(w for spec in specs for w in _bound(file, tensors[spec.name], spec)))


def _bound(file: GGUF, entry: TensorEntry, spec: WeightSpec) -> Iterator[Weight]:
    if spec.is_block and spec.format == entry.format:
        yield file.packed(entry, name=spec.name)
        return
    if spec.format in DENSE:
        yield file.weight(entry, name=spec.name, element=spec.format)
        return
    for index, argument in enumerate(spec.arguments):
        yield Weight(
            argument.name,
            tuple(d for d in argument.shape if isinstance(d, int)),
            argument.dtype,
            read=lambda index=index: _quantised(file, entry, spec)[index],
            stored_as=entry.format,
            stored_bytes=entry.nbytes if index == 0 else 0,
            source=str(file.path),
        )


def _quantised(file: GGUF, entry: TensorEntry, spec: WeightSpec) -> tuple[np.ndarray, ...]:
    """The arrays of `spec.arguments`."""
    values = file.array(entry).astype(np.float32, copy=False)
    if spec.is_block:
        block = BLOCK_FORMATS[spec.format]
        if not block.has_outer_scale:
            return (block.quantize(values),)
        outer = block.outer_scale(values)
        return block.quantize(values / outer[..., None]), outer
    element = dtype(spec.format).numpy
    most = 127.0 if spec.format == "i8" else float(ml_dtypes.finfo(element).max)
    largest = np.abs(values).max(axis=-1)
    scale = np.where(largest > 0, largest / most, 1).astype(np.float32)
    scaled = values / scale[..., None]
    return (np.rint(scaled) if spec.format == "i8" else scaled).astype(element), scale
