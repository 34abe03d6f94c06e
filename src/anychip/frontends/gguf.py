"""The GGUF frontend: a Llama-family file as a LanguageModel with tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

from anychip.core.language_model import LanguageModel
from anychip.frontends.gguf_file import GGUF
from anychip.frontends.llm.chat import JinjaChat, read_chat
from anychip.frontends.llm.llama import bind, check_tensors, read_config
from anychip.frontends.llm.model import language_model
from anychip.frontends.llm.precision import PRECISIONS
from anychip.frontends.llm.tokenizer import GGUFTokenizer, read_tokenizer


def load_gguf(path: str | Path, *, name: str = "") -> LanguageModel:
    """Map the file, check all of its header and vocabulary, and read no weight yet.

    `name` replaces the one the file gives itself.

    The native precision is `stored`: every tensor in the format the file has it in, computed in
    f32. Raises InputError naming file and field for a damaged file or one that is not of the Llama
    family, SetupError when the packages of the extra `llm` are missing.
    """
    file = GGUF.open(path)
    config = read_config(file)
    tensors = check_tensors(file, config)
    tokenizer = read_tokenizer(file)
    if len(tokenizer.tokens) != config.vocabulary:
        raise file.fail(
            "tokenizer.ggml.tokens",
            f"has {len(tokenizer.tokens)} tokens for {config.vocabulary} embeddings",
        )
    return language_model(
        config,
        name=name or file.text("general.name", file.path.stem),
        source=str(file.path),
        native=PRECISIONS["stored"],
        bind=lambda precision: bind(file, config, tensors, precision),
        stored={name: entry.format for name, entry in tensors.items()},
        tokenizer=tokenizer,
        chat=_read_chat(file, tokenizer),
        licence=file.text("general.license", ""),
    )


def _read_chat(file: GGUF, tokenizer: GGUFTokenizer) -> JinjaChat | None:
    key = "tokenizer.chat_template"
    if key not in file:
        return None
    count = len(tokenizer.tokens)
    words = {
        f"{name}_token": tokenizer.tokens[file.integer(id_key, low=0, high=count - 1)]
        for name in ("bos", "eos", "unknown", "padding")
        if (id_key := f"tokenizer.ggml.{name}_token_id") in file
    }
    for ours, theirs in (("unknown_token", "unk_token"), ("padding_token", "pad_token")):
        if ours in words:
            words[theirs] = words.pop(ours)
    return read_chat(file.text(key), words, path=str(file.path))
