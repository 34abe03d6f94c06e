"""Text to token ids and back, by the vocabulary and merges a GGUF file carries.

Two kinds: byte-level BPE (`gpt2`), and SentencePiece's BPE (`llama`), whose merges follow from the
scores. Encoding is done by the `tokenizers` package; decoding is a table of bytes per token.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from anychip.core.errors import UsageError, missing_extra, unknown
from anychip.frontends.gguf_file import GGUF
from anychip.frontends.llm.pretokenizers import PRE_TOKENIZERS, PreTokenizer

Kind = Literal["gpt2", "llama"]

# enum llama_token_type in llama.h
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6

_SPACE = "\u2581"  # SentencePiece writes a space as ▁

# A chat model may end its turn with another token than the file's one eos; these always end it.
_END_OF_TURN = frozenset(
    ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>",
     "<end_of_turn>", "</s>", "<|return|>", "<|call|>")
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class GGUFTokenizer:
    """A file's tokenizer. `bos` is None when prompts start without one; `stop` ends generation."""

    tokens: tuple[str, ...] = field(repr=False)
    bos: int | None
    stop: tuple[int, ...]
    control: frozenset[int] = field(repr=False)
    _bytes: tuple[bytes, ...] = field(repr=False)
    _lacking: frozenset[int] = field(repr=False)  # bytes no token can spell
    _strips_first_space: bool
    _encoder: Any = field(repr=False)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without `bos`. Control tokens written out in it (`<|im_end|>`) are
        found. Raises UsageError for text the vocabulary cannot spell."""
        if self._lacking and not self._lacking.isdisjoint(text.encode()):
            bad = next(c for c in text if not self._lacking.isdisjoint(c.encode()))
            raise UsageError(f"this model's vocabulary cannot spell {bad!r}; leave it out")
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, control: bool = False) -> str:
        """Text of the ids; bytes that are not UTF-8 show as U+FFFD. Control tokens are left out
        unless `control`. Raises UsageError for an id outside the vocabulary."""
        stream = self.stream(control=control)
        return "".join([*(stream.push(one) for one in ids), stream.flush()])

    def stream(self, *, control: bool = False) -> GGUFStream:
        """A decoder for one sequence."""
        return GGUFStream(self, control=control)

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for."""
        if not 0 <= token < len(self._bytes):
            raise UsageError(
                f"token id {token} is outside the vocabulary of {len(self._bytes)} tokens"
            )
        return self._bytes[token]


class GGUFStream:
    """A core.TextStream: what it has given out never ends inside a character."""

    def __init__(self, tokenizer: GGUFTokenizer, *, control: bool = False):
        self._tokenizer, self._control = tokenizer, control
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer._strips_first_space

    def push(self, token: int) -> str:
        """The text this token completes; empty while a character is unfinished."""
        raw = self._tokenizer.bytes_of(token)
        if token in self._tokenizer.control:
            return self.flush() + (raw.decode() if self._control else "")
        if self._at_start:
            raw, self._at_start = raw.removeprefix(b" "), False
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """What is left at an end: U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)


def read_tokenizer(file: GGUF) -> GGUFTokenizer:
    """The tokenizer of a GGUF file.

    Raises InputError for a kind or pre-tokenizer that is not known (naming it) and for a vocabulary
    that contradicts itself; SetupError when the `tokenizers` package is missing.
    """
    kind = file.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise file.fail(
            "tokenizer.ggml.model", str(unknown("kind of tokenizer", kind, ("gpt2", "llama")))
        )
    tokens = file.texts("tokenizer.ggml.tokens")
    if not tokens:
        raise file.fail("tokenizer.ggml.tokens", "the vocabulary is empty")
    types = _types(file, len(tokens))
    prefix, adds_bos = False, True
    if kind == "gpt2":
        pre = _pre_tokenizer(file)
        adds_bos = pre.add_bos
        encoder = _byte_level_encoder(file, tokens, pre)
        table = _byte_level_bytes(tokens, types)
    else:
        prefix = file.flag("tokenizer.ggml.add_space_prefix", True)
        encoder = _sentencepiece_encoder(file, tokens, types, prefix)
        table = _sentencepiece_bytes(file, tokens, types)
    _add_tokens(encoder, tokens, types)
    return GGUFTokenizer(
        tokens=tokens,
        bos=_bos(file, len(tokens), adds_bos),
        stop=_stops(file, tokens, types),
        control=frozenset(np.flatnonzero(np.isin(types, (_CONTROL, _UNKNOWN))).tolist()),
        _bytes=table,
        _lacking=frozenset(range(256)) - {b[0] for b in table if len(b) == 1}
        if kind == "gpt2"
        else frozenset(),
        _strips_first_space=prefix,
        _encoder=encoder,
    )


def _types(file: GGUF, count: int) -> np.ndarray:
    key = "tokenizer.ggml.token_type"
    if key not in file:
        return np.full(count, _NORMAL)
    types = file.numbers(key, count)
    if types.dtype.kind not in "iu" or types.min() < 0 or types.max() > _BYTE:
        raise file.fail(key, f"token types are whole numbers from 0 to {_BYTE}")
    return types


def _pre_tokenizer(file: GGUF) -> PreTokenizer:
    key = "tokenizer.ggml.pre"
    name = file.text(key, "default")
    if name not in PRE_TOKENIZERS:
        raise file.fail(key, str(unknown("pre-tokenizer", name, PRE_TOKENIZERS)))
    return PRE_TOKENIZERS[name]


def _token_id(file: GGUF, name: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    return file.integer(key, low=0, high=count - 1) if key in file else None


def _bos(file: GGUF, count: int, by_default: bool) -> int | None:
    if not file.flag("tokenizer.ggml.add_bos_token", by_default):
        return None
    return _token_id(file, "bos", count)


def _stops(file: GGUF, tokens: tuple[str, ...], types: np.ndarray) -> tuple[int, ...]:
    named = {_token_id(file, name, len(tokens)) for name in ("eos", "eot", "eom")} - {None}
    known = {i for i in np.flatnonzero(types == _CONTROL).tolist() if tokens[i] in _END_OF_TURN}
    return tuple(sorted(named | known))  # type: ignore[type-var]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise missing_extra("tokenizers", "llm", "encoding text for a language model") from None
    return tokenizers


def _byte_level_encoder(file: GGUF, tokens: tuple[str, ...], pre: PreTokenizer) -> Any:
    lib = _library()
    merges = _listed_merges(file)
    encoder = lib.Tokenizer(_bpe(file, tokens, merges, ignore_merges=pre.whole_words))
    encoder.pre_tokenizer = lib.pre_tokenizers.Sequence(
        [
            *(lib.pre_tokenizers.Split(lib.Regex(p), behavior="isolated") for p in pre.patterns),
            lib.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return encoder


def _sentencepiece_encoder(
    file: GGUF, tokens: tuple[str, ...], types: np.ndarray, prefix: bool
) -> Any:
    """SentencePiece's BPE joins the neighbours whose union scores best, so the merges are every cut
    of every token into two tokens, best score first; unknown characters fall back to bytes."""
    lib = _library()
    if "tokenizer.ggml.merges" in file:
        merges = _listed_merges(file)
    else:
        scores = file.numbers("tokenizer.ggml.scores", len(tokens))
        if not np.isfinite(scores).all():
            raise file.fail("tokenizer.ggml.scores", "some score is not a finite number")
        merges = _merges_by_score(tokens, types, scores)
    unknowns = np.flatnonzero(types == _UNKNOWN)
    if not unknowns.size and np.count_nonzero(types == _BYTE) < 256:
        raise file.fail(
            "tokenizer.ggml.token_type",
            "there is neither an unknown token nor one for each byte, so not every text can be "
            "encoded; convert the model again",
        )
    encoder = lib.Tokenizer(
        _bpe(
            file,
            tokens,
            merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=tokens[unknowns[0]] if unknowns.size else None,
        )
    )
    steps = [lib.normalizers.Replace(" ", _SPACE)]
    if prefix:
        steps.insert(0, lib.normalizers.Prepend(_SPACE))
    encoder.normalizer = lib.normalizers.Sequence(steps)
    return encoder


def _listed_merges(file: GGUF) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for index, line in enumerate(file.texts("tokenizer.ggml.merges")):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise file.fail(
                "tokenizer.ggml.merges", f"entry {index}, {line!r}, is not two tokens and a space"
            )
        merges.append((left, right))
    return merges


def _merges_by_score(
    tokens: tuple[str, ...], types: np.ndarray, scores: np.ndarray
) -> list[tuple[str, str]]:
    ids = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, index in ids.items():
        if types[index] in (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-float(scores[index]), ids[left], ids[right], left, right))
    found.sort(key=lambda one: one[:3])
    return [(left, right) for *_, left, right in found]


def _bpe(file: GGUF, tokens: tuple[str, ...], merges: list[tuple[str, str]], **options: Any) -> Any:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise file.fail(
                    "tokenizer.ggml.merges",
                    f"joins {left!r} and {right!r}, but {token!r} is not in the vocabulary",
                )
    return _library().models.BPE(vocab=vocabulary, merges=merges, **options)


def _add_tokens(encoder: Any, tokens: tuple[str, ...], types: np.ndarray) -> None:
    """Tokens that are found in text before anything else is cut or merged."""
    added = _library().AddedToken
    encoder.add_special_tokens(
        [
            added(tokens[i], normalized=False, special=True)
            for i in np.flatnonzero(types == _CONTROL)
        ]
    )
    encoder.add_tokens(
        [added(tokens[i], normalized=False) for i in np.flatnonzero(types == _USER_DEFINED)]
    )


def _byte_level_bytes(tokens: tuple[str, ...], types: np.ndarray) -> tuple[bytes, ...]:
    alphabet = {ord(character): byte for character, byte in byte_alphabet().items()}
    literal = np.isin(types, (_CONTROL, _USER_DEFINED, _UNKNOWN)).tolist()

    def stands_for(token: str) -> bytes:
        try:
            return codecs.charmap_encode(token, "strict", alphabet)[0]
        except UnicodeEncodeError:  # has a character that is no stand-in
            return token.encode()

    return tuple(
        token.encode() if is_literal else stands_for(token)
        for token, is_literal in zip(tokens, literal, strict=True)
    )


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: character → byte (Radford et al. 2019, encoder.py).

    Printable bytes stand for themselves, the rest in order for U+0100 and on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}


def _sentencepiece_bytes(
    file: GGUF, tokens: tuple[str, ...], types: np.ndarray
) -> tuple[bytes, ...]:
    table: list[bytes] = []
    for token, kind in zip(tokens, types.tolist(), strict=True):
        if kind != _BYTE:
            table.append(token.replace(_SPACE, " ").encode())
            continue
        digits = token.removeprefix("<0x").removesuffix(">")
        if len(digits) != 2 or len(token) != 6:
            raise file.fail("tokenizer.ggml.tokens", f"byte token {token!r} is not like <0x0A>")
        try:
            table.append(bytes.fromhex(digits))
        except ValueError:
            raise file.fail(
                "tokenizer.ggml.tokens", f"byte token {token!r} is not like <0x0A>"
            ) from None
    return tuple(table)
