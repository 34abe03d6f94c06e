"""Tokens out of Executables: the plain loop, its timing, and the scheduler of many sequences."""

from anychip.llm.generate import (
    Piece,
    Runner,
    chat_ids,
    compile_runner,
    generate,
    prompt_ids,
)
from anychip.llm.measure import Timing, time_steps
from anychip.llm.sampling import Logprobs, Sampling
from anychip.llm.scheduler import Batch, Limits, Request, Slice
from anychip.llm.text import Stop

__all__ = [
    "Batch",
    "Limits",
    "Logprobs",
    "Piece",
    "Request",
    "Runner",
    "Sampling",
    "Slice",
    "Stop",
    "Timing",
    "chat_ids",
    "compile_runner",
    "generate",
    "prompt_ids",
    "time_steps",
]
