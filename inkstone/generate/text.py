"""Tokens become text as they come: whole characters only, and nothing of a stop string.

    text = TextStream(tokenizer, Shown(stops=["\\nUser:"]))
    for delta in ...: print(text.push(delta.token), end="")
    print(text.close())

Bytes of a split character wait for the rest, and what may be the beginning of a stop string waits until it is not.
"""

from collections.abc import Iterable, Iterator, Sequence

from inkstone.tokenizer import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Shown:
    """What of a growing text may be shown: marks replaced, nothing of a stop string, no white space before it if asked.

    What may be the beginning of a mark or of a stop string waits. `stopped` names the stop string that ended the text.
    """

    def __init__(
        self, stops: Sequence[str] = (), replacements: Sequence[tuple[str, str]] = (), from_first_word: bool = False
    ) -> None:
        self.stops, self.replacements = [stop for stop in stops if stop], replacements
        self.stopped: str | None = None
        self._marks = [*self.stops, *(mark for mark, _ in replacements)]
        self._held, self._begun = "", not from_first_word

    def push(self, text: str) -> str:
        """New text that is sure to be shown; often nothing."""
        if self.stopped is not None:
            return ""
        self._held += text
        for mark, shown in self.replacements:
            self._held = self._held.replace(mark, shown)
        found = [(self._held.find(stop), stop) for stop in self.stops if stop in self._held]
        if found:
            place, self.stopped = min(found)
            ready, self._held = self._held[:place], ""
        else:
            size = len(self._held) - _beginning_of(self._marks, self._held)
            ready, self._held = self._held[:size], self._held[size:]
        return self._words(ready)

    def close(self) -> str:
        """What still waited."""
        rest, self._held = self._held, ""
        return self._words(rest)

    def _words(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text


class TextStream:
    """The text of one answer's tokens, through `shown`."""

    def __init__(self, tokenizer: Tokenizer, shown: Shown) -> None:
        self.tokenizer, self.shown = tokenizer, shown
        self._tokens: list[int] = []
        self._begun = False

    def push(self, token: int) -> str:
        """New text to show; often nothing."""
        self._tokens.append(token)
        text = self.tokenizer.decode(self._tokens, skip_control=True, continued=self._begun)
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._tokens, self._begun = [], True
        return self.shown.push(text)

    def close(self) -> str:
        """What still waited, bytes that never became a character as `�` included."""
        rest = self.tokenizer.decode(self._tokens, skip_control=True, continued=self._begun)
        self._tokens = []
        return self.shown.push(rest) + self.shown.close()


def text_deltas(tokenizer: Tokenizer, token_ids: Iterable[int], shown: Shown | None = None) -> Iterator[str]:
    """The pieces of text of tokens as they come, up to the first stop string."""
    shown = shown or Shown()
    text = TextStream(tokenizer, shown)
    for token in token_ids:
        if piece := text.push(token):
            yield piece
        if shown.stopped is not None:
            return
    if rest := text.close():
        yield rest


def _beginning_of(marks: Iterable[str], text: str) -> int:
    """Characters at the end of `text` that may be the beginning of a mark."""
    return max((size for mark in marks for size in range(1, len(mark)) if text.endswith(mark[:size])), default=0)
