"""Tokens out of Executables: the plain loop, and its timing."""

from anychip.llm.generate import (
    Piece,
    Runner,
    Sampling,
    Stop,
    chat_ids,
    compile_runner,
    generate,
    prompt_ids,
)
from anychip.llm.measure import Timing, time_steps

__all__ = [
    "Piece",
    "Runner",
    "Sampling",
    "Stop",
    "Timing",
    "chat_ids",
    "compile_runner",
    "generate",
    "prompt_ids",
    "time_steps",
]
