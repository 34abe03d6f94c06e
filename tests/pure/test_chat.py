"""Chat templates: rendered as transformers renders them, and contained."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import pytest

from anychip.core.errors import InputError, UsageError
from anychip.frontends.llm.chat import read_chat

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
ALTERNATING = """
{{ bos_token }}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('roles must alternate, starting with user') }}
{% endif %}
{% if message['role'] == 'user' %}
[INST] {{ message['content'] | trim }} [/INST]
{% else %}
 {{ message['content'] }}{{ eos_token }}
{% endif %}
{% endfor %}
"""
TOOLS = """
{%- if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.last = loop.index0 %}
    {{- message | tojson }}
{%- endfor %}
{% generation %}{{ messages[ns.last].content.split(' ')[-1] }}{% endgeneration %}
"""
MESSAGES = [
    {"role": "user", "content": " What is <b>2 & 2</b>? "},
    {"role": "assistant", "content": "4, voilà"},
    {"role": "user", "content": "Sure?"},
]
WORDS = {"bos_token": "<s>", "eos_token": "</s>"}

_THEIRS = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
templates, messages, words = json.load(sys.stdin)
print(json.dumps([
    render_jinja_template(conversations=[messages], chat_template=template,
                          add_generation_prompt=True, **words)[0][0]
    for template in templates
]))
"""


def test_templates_render_as_in_transformers():
    templates = [CHATML, ALTERNATING, TOOLS]
    done = subprocess.run(
        [sys.executable, "-c", _THEIRS],
        input=json.dumps([templates, MESSAGES, WORDS]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = [read_chat(one, WORDS, path="f").render(MESSAGES) for one in templates]
    assert ours == theirs
    assert "<b>2 & 2</b>" in ours[0]


def test_the_template_may_ask_for_the_time():
    source = "{{ strftime_now('%d %b %Y') }}"
    chat = read_chat(source, {}, path="f", now=lambda: datetime(2026, 3, 9))
    assert chat.render(MESSAGES) == "09 Mar 2026"


def test_a_refusal_by_the_template_is_an_input_error():
    chat = read_chat(ALTERNATING, WORDS, path="file.gguf")
    with pytest.raises(InputError, match="roles must alternate") as caught:
        chat.render([{"role": "assistant", "content": "me first"}])
    assert (caught.value.path, caught.value.field) == ("file.gguf", "tokenizer.chat_template")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ messages[99].content }}",
        "{{ nothing.at.all }}",
        "{{ 'a' + 1 }}",
        "{{ messages[0].content.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ range(10000000) | list }}",
        "{% include 'secrets' %}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_input_error(source: str):
    chat = read_chat(source, {}, path="file.gguf")
    with pytest.raises(InputError, match=r"file\.gguf, tokenizer\.chat_template: the chat templ"):
        chat.render(MESSAGES)


@pytest.mark.parametrize("source", ["{% if %}", "a\n\n{{ x", "{% for %}", "{{ " + "(" * 5000])
def test_a_template_that_does_not_parse_is_refused_when_read(source: str):
    with pytest.raises(InputError, match="the chat template fails"):
        read_chat(source, {}, path="f")


def test_a_syntax_error_names_the_line():
    with pytest.raises(InputError, match="at line 3"):
        read_chat("a\n\n{% if %}", {}, path="f")


def test_a_huge_template_is_refused():
    with pytest.raises(InputError, match="no sound one has more"):
        read_chat(" " * (1 << 21), {}, path="f")


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"content": "x"}, {"role": "u", "content": 3}]
)
def test_messages_need_role_and_content(message: dict):
    with pytest.raises(UsageError, match="a chat message is"):
        read_chat(CHATML, {}, path="f").render([message])
