"""Generated text on its way out: held back while a character or a stop text may be unfinished."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.core import TextStream, UsageError


@dataclass(frozen=True)
class Stop:
    """What ends a generation: token ids (their text is not given out) or texts (nor is theirs)."""

    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in self.texts:
            raise UsageError("a stop text is empty; it would end every generation at once")


class TextOut:
    """One answer's text. Without a stream every text is empty."""

    def __init__(self, stream: TextStream | None, stops: tuple[str, ...]):
        self._stream, self._stops = stream, stops
        self._held, self.is_over = "", False

    def push(self, token: int) -> str:
        """What one more token lets out; after it, `is_over` says whether a stop text was met."""
        return self._let_out(self._stream.push(token)) if self._stream else ""

    def rest(self) -> str:
        """What is still held, at the end."""
        out = self._let_out(self._stream.flush()) if self._stream else ""
        held, self._held = self._held, ""
        return out if self.is_over else out + held

    def _let_out(self, more: str) -> str:
        text, self._held = self._held + more, ""
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.is_over = True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
