"""Chat templates: the Jinja text a model's file carries, rendered in a sandbox.

The environment is the one Hugging Face renders in (transformers, `chat_template_utils.py`), since
templates are written for it: trimmed blocks, loop controls, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from anychip.core.errors import InputError, UsageError, missing_extra

_LONGEST = 1 << 20  # bytes; real templates have a few thousand


@dataclass(frozen=True, eq=False)
class JinjaChat:
    """A compiled template and the words it may use (`bos_token`, `eos_token`, …)."""

    words: Mapping[str, str]
    path: str
    _template: Any = field(repr=False)

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt for these messages, ending where the assistant is to speak.

        The text already has `bos` if the template wants one. Raises UsageError for messages without
        role and content, InputError when the template fails or refuses them.
        """
        for message in messages:
            if not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise UsageError(
                    f'a chat message is {{"role": …, "content": …}}, both text; got {message!r}'
                )
        try:
            return self._template.render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.words,
            )
        except Exception as error:  # a template is a program of the file's and may raise anything
            raise _failed(error, self.path) from error


def read_chat(
    source: str,
    words: Mapping[str, str],
    *,
    path: str,
    now: Callable[[], datetime] = datetime.now,
) -> JinjaChat:
    """Compile a template. Raises InputError with the template's line when it does not parse."""
    try:
        import jinja2
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise missing_extra("jinja2", "llm", "rendering a chat template") from None
    if len(source) > _LONGEST:
        raise InputError(
            f"the template has {len(source)} characters; no sound one has more than {_LONGEST}",
            path=path,
            field="tokenizer.chat_template",
        )

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for training; here it is its body."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    try:
        template = environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise _failed(error, path) from error
    return JinjaChat(dict(words), path, template)


def _failed(error: Exception, path: str) -> InputError:
    line = getattr(error, "lineno", None)
    where = f" at line {line}" if line else ""
    return InputError(
        f"the chat template fails{where}: {error or type(error).__name__}. "
        "Give the prompt as plain text, or change the messages",
        path=path,
        field="tokenizer.chat_template",
    )


def _raise_exception(message: str) -> NoReturn:
    raise UsageError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Jinja's own filter escapes HTML, which prompts must not be.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
