"""The plain data of a conversation: what was said (`Message`), and what the tokenizer is given (`Segment`)."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn. `loss_weight` None means the default: 1 for the assistant, 0 for everybody else.

    `input_at` is where the `input` of an Alpaca row begins in the content, for templates that set it apart.
    """

    role: Role
    content: str
    loss_weight: float | None = None
    input_at: int | None = field(default=None, compare=False)

    @property
    def weight(self) -> float:
        """Loss weight of the turn's content and of the token that ends it."""
        if self.loss_weight is not None:
            return self.loss_weight
        return 1.0 if self.role == "assistant" else 0.0


@dataclass(frozen=True)
class Segment:
    """A control token by name, the tokenizer's own "bos" or "eos" (special), or text that it sees as one string.

    `weight` is the loss weight of its ids. Text stays text: nothing that is written in it becomes a control token.
    Text that is `continued` goes on from the text before it; other text begins a string, with the dummy prefix of
    tokenizers that have one.
    """

    kind: Literal["token", "special", "text"]
    value: str
    weight: float
    continued: bool = False


@dataclass(frozen=True)
class Preference:
    """A prompt that ends before the assistant's turn, with a better and a worse answer."""

    prompt: list[Message]
    chosen: str
    rejected: str
    lang: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A conversation whose last turn is an answer that somebody found good or bad."""

    chat: list[Message]
    good: bool
