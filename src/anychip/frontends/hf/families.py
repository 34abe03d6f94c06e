"""Folders whose architecture our builders know (Llama, Mistral, Qwen2/3, Gemma 1–3, Phi-3): the
config as a TransformerConfig, and each of our weights out of the safetensors files.

What is not exactly expressed gives None, never something near: PyTorch's own code is captured then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import InputError, UnsupportedError
from anychip.core.language_model import Precision
from anychip.core.weights import Weight, Weights
from anychip.frontends.llm import PRECISIONS, Rope, TransformerConfig, weight_specs
from anychip.frontends.llm.encode import encode
from anychip.frontends.llm.weights import WeightSpec, mtp_specs

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_OUTSIDE = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
_MTP = {
    "mtp_layers.0": {
        "embed_norm": "token_layernorm",
        "hidden_norm": "hidden_layernorm",
        "join": "input_proj",
        "norm": "final_layernorm",
    },
    "layers.{layers}": {
        "embed_norm": "enorm",
        "hidden_norm": "hnorm",
        "join": "eh_proj",
        "norm": "shared_head.norm",
    },
}
"""MiMo's and DeepSeek-V3's module that guesses ahead: where it lies, and what its own parts are
called there; its layer's parts are called as any layer's."""
_POST_NORMS = {
    "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}


def read_config(c: Any) -> TransformerConfig | None:
    """transformers' configuration object as ours; None when a part of it has no place there."""
    try:
        return _read(c)
    except (InputError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # values that cannot be: the captured route names file and place


def _read(c: Any) -> TransformerConfig | None:
    kind = c.model_type
    if kind not in FAMILIES or getattr(c, "mlp_bias", False):
        return None
    activation = getattr(c, "hidden_activation", None) or c.hidden_act
    rope, window_rope, windows = _ropes(c), None, _windows(c)
    if activation not in _ACTIVATIONS or rope is None or windows is None:
        return None
    if isinstance(rope, tuple):
        rope, window_rope = rope
    is_gemma, later_gemma = kind.startswith("gemma"), kind in ("gemma2", "gemma3_text")
    return TransformerConfig(
        family=kind,
        layers=c.num_hidden_layers,
        hidden=c.hidden_size,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=_head_dim(c),
        ffn=c.intermediate_size,
        vocabulary=c.vocab_size,
        context=c.max_position_embeddings,
        rope=rope,
        window_rope=window_rope,
        norm_eps=c.rms_norm_eps,
        activation=_ACTIVATIONS[activation],  # pyright: ignore[reportArgumentType]
        norm_offset=1.0 if is_gemma else 0.0,
        post_norms=later_gemma,
        qk_norm=kind in ("qwen3", "gemma3_text"),
        qkv_bias=kind == "qwen2" or bool(getattr(c, "attention_bias", False)),
        output_bias=kind != "qwen2" and bool(getattr(c, "attention_bias", False)),
        attention_scale=c.query_pre_attn_scalar**-0.5 if later_gemma else 0.0,
        attention_softcap=getattr(c, "attn_logit_softcapping", None) or 0.0,
        logit_softcap=getattr(c, "final_logit_softcapping", None) or 0.0,
        embedding_scale=float(c.hidden_size) ** 0.5 if is_gemma else 1.0,
        tied_embeddings=bool(c.tie_word_embeddings),
        window=windows[0],
        global_every=windows[1],
        mtp=getattr(c, "num_nextn_predict_layers", None) or 0,
    )


def _head_dim(c: Any) -> int:
    return getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads


def _windows(c: Any) -> tuple[int, int] | None:
    """(window, global_every); None for a pattern of layers that has no such numbers."""
    size = getattr(c, "sliding_window", None) or 0
    kinds = getattr(c, "layer_types", None)
    if kinds is None:
        return (size, 0) if size and c.model_type in ("mistral", "phi3") else (0, 0)
    if set(kinds) - {"full_attention", "sliding_attention"}:
        return None
    full = [one == "full_attention" for one in kinds]
    if all(full):
        return 0, 0
    if not any(full):
        return size, 0
    every = full.index(True) + 1
    fits = every > 1 and full == [(i + 1) % every == 0 for i in range(len(full))]
    return (size, every) if fits else None


def _ropes(c: Any) -> Rope | tuple[Rope, Rope] | None:
    """How heads rotate: of all layers, or of (global, window) layers."""
    parameters = dict(c.rope_parameters)
    if "full_attention" in parameters:
        pair = [_rope(c, parameters[f"{kind}_attention"]) for kind in ("full", "sliding")]
        return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])
    return _rope(c, parameters)


def _rope(c: Any, p: Mapping[str, Any]) -> Rope | None:
    """None for a scaling Rope has not."""
    part = p.get("partial_rotary_factor") or getattr(c, "partial_rotary_factor", None) or 1.0
    dim = 0 if part == 1.0 else int(_head_dim(c) * part)
    plain = Rope(theta=float(p["rope_theta"]), dim=dim)
    scaling = p.get("rope_type", "default")
    if scaling == "default":
        return plain
    if scaling == "linear":
        return replace(plain, scaling="linear", factor=float(p["factor"]))
    if scaling == "llama3":
        return replace(
            plain,
            scaling="llama3",
            factor=float(p["factor"]),
            original_context=int(p["original_max_position_embeddings"]),
            low_freq=float(p["low_freq_factor"]),
            high_freq=float(p["high_freq_factor"]),
        )
    return None


@dataclass(frozen=True)
class Tensor:
    """A tensor in a safetensors file, of an element type we have."""

    file: Path
    element: str
    shape: tuple[int, ...]
    offset: int

    def array(self) -> np.ndarray:
        kind = dtype(self.element).numpy
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.fromfile(self.file, kind, count, offset=self.offset).reshape(self.shape)


@dataclass(frozen=True)
class Stored:
    """A folder's tensors as our weights. Headers were checked before (Folder)."""

    path: Path
    config: TransformerConfig

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for file in sorted(self.path.glob("*.safetensors")):
            with open(file, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__" and entry.get("dtype") in _TYPES:
                    found[name] = Tensor(
                        file,
                        _TYPES[entry["dtype"]],
                        tuple(entry["shape"]),
                        8 + length + entry["data_offsets"][0],
                    )
        return found

    @property
    def is_whole(self) -> bool:
        """Whether every weight is there, in its shape."""
        specs = weight_specs(self.config, PRECISIONS["f32"])
        return all(self._shape(spec.name) == spec.shape for spec in specs)

    @property
    def has_mtp(self) -> bool:
        """Whether a module that guesses ahead is there, whole, of a kind that is built."""
        try:
            specs = mtp_specs(self.config, PRECISIONS["f32"])
        except UnsupportedError:
            return False
        return all(self._shape(spec.name) == spec.shape for spec in specs)

    def bind(self, precision: Precision) -> Weights:
        """The weights in a precision, read and converted when touched.

        Raises UnsupportedError for a block format that is only read here (the k-quants).
        """
        return self._bound(weight_specs(self.config, precision))

    def bind_mtp(self, precision: Precision) -> Weights:
        """`bind`, of the module that guesses ahead."""
        return self._bound(mtp_specs(self.config, precision))

    def _bound(self, specs: tuple[WeightSpec, ...]) -> Weights:
        for form in {spec.format for spec in specs if spec.is_block}:
            _must_encode(form)
        return Weights(tuple(weight for spec in specs for weight in self._weights(spec)))

    def _weights(self, spec: WeightSpec) -> Iterator[Weight]:
        for index, argument in enumerate(spec.arguments):
            shape = tuple(d for d in argument.shape if isinstance(d, int))

            def read(index: int = index) -> np.ndarray:
                return encode(spec, self._array(spec.name))[index]

            yield Weight(
                argument.name,
                shape,
                argument.dtype,
                read=read,
                stored_as=self.tensors[self._place(spec.name)[0]].element,
                stored_bytes=argument.nbytes,
                source=str(self.path),
            )

    def _array(self, name: str) -> np.ndarray:
        tensor, rows = self._place(name)
        array = self.tensors[tensor].array()
        if tensor.endswith("eh_proj.weight"):  # takes the embedding first
            array = np.roll(array, self.config.hidden, axis=-1)
        return array if rows is None else array[rows]

    def _shape(self, name: str) -> tuple[int, ...] | None:
        tensor, rows = self._place(name)
        if tensor not in self.tensors:
            return None
        shape = self.tensors[tensor].shape
        if rows is None or len(shape) != 2:
            return shape
        return (len(range(*rows.indices(shape[0]))), *shape[1:])

    @property
    def _mtp(self) -> tuple[str, Mapping[str, str]]:
        """Where the tensors of the module that guesses ahead begin, and its own parts' names."""
        for place, names in _MTP.items():
            at = f"model.{place.format(layers=self.config.layers)}."
            if f"{at}{names['join']}.weight" in self.tensors:
                return at, names
        return "model.no_mtp.", next(iter(_MTP.values()))

    def _place(self, name: str) -> tuple[str, slice | None]:
        """The tensor that holds one of our weights, and which of its rows (None: all)."""
        if name in _OUTSIDE:
            return f"{_OUTSIDE[name]}.weight", None
        c = self.config
        if name.startswith("mtp."):
            at, names = self._mtp
            short = name.removeprefix("mtp.")
            if short in names:
                return f"{at}{names[short]}.weight", None
        else:
            _, layer, short = name.split(".", 2)
            at = f"model.layers.{layer}."
        last = "weight"
        if short.endswith(".bias"):
            short, last = short.removesuffix(".bias"), "bias"
        if c.family == "phi3" and short in ("attn.q", "attn.k", "attn.v"):
            q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
            begin = {"attn.q": 0, "attn.k": q, "attn.v": q + kv}[short]
            rows = slice(begin, begin + (q if short == "attn.q" else kv))
            return f"{at}self_attn.qkv_proj.{last}", rows
        if c.family == "phi3" and short in ("ffn.gate", "ffn.up"):
            begin = 0 if short == "ffn.gate" else c.ffn
            return f"{at}mlp.gate_up_proj.{last}", slice(begin, begin + c.ffn)
        names = {**_NAMES, **(_POST_NORMS if c.post_norms else {})}
        return f"{at}{names[short]}.{last}", None


def _must_encode(form: str) -> None:
    from anychip.core.blocks import block_format

    block = block_format(form)
    try:
        block.quantize(np.zeros((1, block.elements), np.float32))
    except UnsupportedError as error:
        raise UnsupportedError(f"weights cannot be quantised to {form} on load: {error}") from None
