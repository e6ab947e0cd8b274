"""Chat templates as data: which pieces stand around the content of each role, and which of them are learned.

    ids, weights = encode_chat([Message("user", "你好"), Message("assistant", "你好！")], CHATML, tokenizer)

Ids and loss weights come out of one pass over typed segments, so nothing is ever searched for in rendered text, and
training and serving build their ids with the same object. The Jinja file for other programs is derived (`export`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from inkstone.chat.messages import Message, Role, Segment
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """A fixed part of a template; a `learned` one has the loss weight of its message, the others have none."""

    kind: Literal["token", "text"]
    value: str
    learned: bool = False


@dataclass(frozen=True)
class Turn:
    """What stands before and after the content of a role."""

    header: tuple[Piece, ...]
    footer: tuple[Piece, ...]


@dataclass(frozen=True)
class Template:
    """How a conversation is written. The assistant's turn must end with a learned stop token, or it never stops."""

    name: str
    start: tuple[Piece, ...]
    turns: dict[Role, Turn]
    stop_tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        footer = self.turns["assistant"].footer if "assistant" in self.turns else ()
        learned = [piece for piece in footer if piece.learned]
        if not learned or learned[-1].kind != "token" or learned[-1].value not in self.stop_tokens:
            raise InputError(
                f'template "{self.name}": the last learned piece after the assistant\'s content must be one of its '
                "stop_tokens, otherwise the model would never learn to stop."
            )

    def segments(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[Segment]:
        """The conversation as tokens and texts with loss weights.

        With `add_generation_prompt` it ends where the assistant's content begins, and is then a prefix of the same
        conversation with that answer. Raises InputError for a role that the template does not have.
        """
        parts: list[Segment | None] = [_plain(piece) for piece in self.start]
        for number, message in enumerate(messages):
            turn = self.turns.get(message.role)
            if turn is None:
                raise InputError(
                    f'message {number}: template "{self.name}" has no role "{message.role}", '
                    f"only {', '.join(self.turns)}."
                )
            content = Segment("text", message.content.strip(), message.weight)
            # The model begins its answer on a fresh segment, so training cuts the text at the same place.
            border = [None] if message.role == "assistant" else []
            parts += [_plain(piece) for piece in turn.header]
            parts += [*border, content, *border]
            parts += [_weighted(piece, message.weight) for piece in turn.footer]
        if add_generation_prompt:
            parts += [_plain(piece) for piece in self.turns["assistant"].header]
        return _join(parts)


def encode_segments(segments: Sequence[Segment], tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Ids, and the loss weight of each."""
    texts = iter(tokenizer.encode_batch([segment.value for segment in segments if segment.kind == "text"]))
    ids: list[int] = []
    weights: list[float] = []
    for segment in segments:
        new = next(texts) if segment.kind == "text" else [tokenizer.token_id(segment.value)]
        ids += new
        weights += [segment.weight] * len(new)
    return ids, weights


def encode_chat(
    messages: Sequence[Message], template: Template, tokenizer: Tokenizer, add_generation_prompt: bool = False
) -> tuple[list[int], list[float]]:
    """Ids of a conversation, and the loss weight of each."""
    return encode_segments(template.segments(messages, add_generation_prompt), tokenizer)


def _plain(piece: Piece) -> Segment:
    return Segment(piece.kind, piece.value, 0.0)


def _weighted(piece: Piece, weight: float) -> Segment:
    return Segment(piece.kind, piece.value, weight if piece.learned else 0.0)


def _join(parts: Iterable[Segment | None]) -> list[Segment]:
    """Neighbouring texts of one weight become one string for the tokenizer, except across a border (None)."""
    joined: list[Segment] = []
    border = False
    for part in parts:
        if part is None:
            border = True
        elif part.kind == "token" or part.value:
            last = joined[-1] if joined and not border else None
            if last and last.kind == part.kind == "text" and last.weight == part.weight:
                joined[-1] = Segment("text", last.value + part.value, last.weight)
            else:
                joined.append(part)
            border = False
    return joined


def _chatml_turn(role: Role) -> Turn:
    return Turn(
        header=(Piece("token", "<|im_start|>"), Piece("text", f"{role}\n")),
        footer=(Piece("token", "<|im_end|>", learned=True), Piece("text", "\n")),
    )


CHATML = Template(
    name="chatml",
    start=(Piece("token", "<|bos|>"),),
    turns={
        "system": _chatml_turn("system"),
        "user": _chatml_turn("user"),
        "assistant": _chatml_turn("assistant"),
        "tool": _chatml_turn("tool"),
    },
    stop_tokens=("<|im_end|>",),
)

TEMPLATES = {CHATML.name: CHATML}
