"""Workload: what one user asks of a language model, and how many ask at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.core import Facts, UsageError


@dataclass(frozen=True)
class Workload:
    """`batch` sequences in flight, each with `prompt` tokens of prompt and `generate` of answer.

    Raises UsageError for a number below 1.
    """

    prompt: int = 1024
    generate: int = 256
    batch: int = 1

    def __post_init__(self) -> None:
        for name in ("prompt", "generate", "batch"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise UsageError(f"{name} = {value} must be a whole number of at least 1")

    @property
    def context(self) -> int:
        """Positions the KV cache must hold in the end."""
        return self.prompt + self.generate

    def check(self, model: str, facts: Facts) -> None:
        """Raise UsageError when the model cannot hold prompt and answer."""
        if self.context > facts.context:
            raise UsageError(
                f"prompt {self.prompt} + generate {self.generate} = {self.context} tokens, but "
                f"{model} was made for {facts.context}; shorten them by "
                f"{self.context - facts.context}"
            )

    def to_json(self) -> dict[str, int]:
        return {"prompt": self.prompt, "generate": self.generate, "batch": self.batch}
