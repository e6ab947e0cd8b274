"""The plain data of a conversation: what was said (`Message`), and what the tokenizer is given (`Segment`)."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn. `loss_weight` None means the default: 1 for the assistant, 0 for everybody else."""

    role: Role
    content: str
    loss_weight: float | None = None

    @property
    def weight(self) -> float:
        """Loss weight of the turn's content and of the token that ends it."""
        if self.loss_weight is not None:
            return self.loss_weight
        return 1.0 if self.role == "assistant" else 0.0


@dataclass(frozen=True)
class Segment:
    """A control token by name, or text that the tokenizer sees as one string; `weight` is the loss weight of its ids.

    Text stays text: nothing that is written in it becomes a control token.
    """

    kind: Literal["token", "text"]
    value: str
    weight: float


@dataclass(frozen=True)
class Preference:
    """A prompt that ends before the assistant's turn, with a better and a worse answer."""

    prompt: list[Message]
    chosen: str
    rejected: str
    lang: str | None = None
