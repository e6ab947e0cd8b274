"""Tokens become text as they come: whole characters only, and nothing of a stop string.

    text = TextStream(tokenizer, stops=("\\nUser:",))
    for delta in ...: print(text.push(delta.token), end="")
    print(text.close())

Bytes of a split character wait for the rest, and what may be the beginning of a stop string waits until it is not.
"""

from collections.abc import Iterable, Iterator, Sequence

from inkstone.tokenizer import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one answer. `stopped` names the stop string that ended it; it and what follows are left out."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, [stop for stop in stops if stop]
        self.stopped: str | None = None
        self._tokens: list[int] = []
        self._begun = False
        self._held = ""

    def push(self, token: int) -> str:
        """New text that is sure to be part of the answer; often nothing."""
        self._tokens.append(token)
        text = self.tokenizer.decode(self._tokens, skip_control=True, continued=self._begun)
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._tokens, self._begun = [], True
        return self._shown(text, self.stops)

    def close(self) -> str:
        """What still waited, bytes that never became a character as `�` included."""
        rest = self.tokenizer.decode(self._tokens, skip_control=True, continued=self._begun)
        self._tokens = []
        shown = self._shown(rest, self.stops)
        shown, self._held = shown + self._held, ""
        return shown

    def _shown(self, text: str, stops: Sequence[str]) -> str:
        if self.stopped is not None:
            return ""
        self._held += text
        found = [(self._held.find(stop), stop) for stop in stops if stop in self._held]
        if found:
            place, self.stopped = min(found)
            shown, self._held = self._held[:place], ""
            return shown
        ready = len(self._held) - beginning_of(stops, self._held)
        shown, self._held = self._held[:ready], self._held[ready:]
        return shown


def beginning_of(marks: Iterable[str], text: str) -> int:
    """Characters at the end of `text` that may be the beginning of a mark."""
    return max((size for mark in marks for size in range(1, len(mark)) if text.endswith(mark[:size])), default=0)


def text_deltas(tokenizer: Tokenizer, token_ids: Iterable[int], stops: Sequence[str] = ()) -> Iterator[str]:
    """The pieces of text of tokens as they come, up to the first stop string."""
    text = TextStream(tokenizer, stops)
    for token in token_ids:
        if shown := text.push(token):
            yield shown
        if text.stopped is not None:
            return
    if rest := text.close():
        yield rest
