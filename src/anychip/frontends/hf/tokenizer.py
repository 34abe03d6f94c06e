"""The tokenizer and chat template of a folder: tokenizer.json read by the `tokenizers` package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anychip.core.errors import InputError, UsageError, missing_extra
from anychip.frontends.llm.chat import JinjaChat, read_chat

# A chat model may end its turn with another token than its eos; these always end it.
_END_OF_TURN = (
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>",
    "<end_of_turn>", "</s>", "<|return|>", "<|call|>",
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderTokenizer:
    """A core.Tokenizer over a tokenizer.json."""

    bos: int | None
    stop: tuple[int, ...]
    _encoder: Any = field(repr=False)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without `bos`."""
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out. Raises UsageError for an unknown id."""
        size = self._encoder.get_vocab_size(with_added_tokens=True)
        for one in ids:
            if not 0 <= one < size:
                raise UsageError(f"{one} is no token id; the vocabulary has {size}")
        return self._encoder.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> FolderStream:
        return FolderStream(self)


class FolderStream:
    """Text as tokens come: what decoding all of them adds to what was given out before.

    Decoders join words and bytes over token borders, so a token's text is a difference of two
    decodings; those begin at the last point where the text was whole.
    """

    def __init__(self, tokenizer: FolderTokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._whole = 0  # ids before this one have been given out

    def push(self, token: int) -> str:
        self._ids.append(token)
        before = self._tokenizer.decode(self._ids[: self._whole])
        after = self._tokenizer.decode(self._ids)
        if after.endswith("\ufffd"):  # an unfinished character
            return ""
        self._forget()
        return after[len(before) :]

    def _forget(self) -> None:
        """Keep a few ids as context for the next one."""
        self._ids = self._ids[-8:]
        self._whole = len(self._ids)

    def flush(self) -> str:
        before = self._tokenizer.decode(self._ids[: self._whole])
        after = self._tokenizer.decode(self._ids)
        self._forget()
        return after[len(before) :]


def read_tokenizer(folder: Path) -> FolderTokenizer | None:
    """The folder's tokenizer; None when it has no tokenizer.json."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise missing_extra("tokenizers", "llm", "reading a tokenizer") from None
    try:
        encoder = Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no error type of its own
        raise InputError(f"not a tokenizer: {error}", path=str(file)) from None
    first = encoder.encode("", add_special_tokens=True).ids
    return FolderTokenizer(
        bos=first[0] if first else None, stop=_stops(folder, encoder), _encoder=encoder
    )


def _stops(folder: Path, encoder: Any) -> tuple[int, ...]:
    stops: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = _json(folder / name).get("eos_token_id")
        stops += [value] if isinstance(value, int) else value if isinstance(value, list) else []
    named = [encoder.token_to_id(token) for token in _END_OF_TURN]
    return tuple(dict.fromkeys([*stops, *(i for i in named if i is not None)]))


def read_chat_of(folder: Path) -> JinjaChat | None:
    """The folder's chat template; None when it has none."""
    settings = _json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        return None
    words = {
        key: value if isinstance(value, str) else value.get("content", "")
        for key, value in settings.items()
        if key.endswith("_token") and isinstance(value, str | dict)
    }
    return read_chat(template, words, path=str(file if file.is_file() else folder))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", path=str(file)) from None
    return value if isinstance(value, dict) else {}
