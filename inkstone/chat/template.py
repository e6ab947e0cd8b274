"""Chat templates as data: which pieces stand around the content of each role, and which of them are learned.

    ids, weights = encode_chat([Message("user", "你好"), Message("assistant", "你好！")], CHATML, tokenizer)

Every format of the field is one small program over typed segments; the formats themselves are files in `templates/`.
Ids and loss weights come out of one pass, so nothing is ever searched for in rendered text, and training and serving
build their ids with the same object. The Jinja file for other programs is derived (`jinja`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from inkstone.chat.messages import Message, Role, Segment
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """A fixed part of a template; a `learned` one has the loss weight of its message, the others have none.

    A control token by name; text; the tokenizer's own "bos" or "eos" (special); or the number of the round, of which
    `value` is the first.
    """

    kind: Literal["token", "text", "special", "round"]
    value: str
    learned: bool = False


@dataclass(frozen=True)
class Turn:
    """What stands before and after the content of a role. The model speaks from the header's first learned piece on."""

    header: tuple[Piece, ...]
    footer: tuple[Piece, ...]

    @property
    def given(self) -> tuple[Piece, ...]:
        """The part of the header that is not learned: for the assistant, where a prompt ends."""
        learned = [piece.learned for piece in self.header]
        return self.header[: learned.index(True)] if True in learned else self.header


@dataclass(frozen=True)
class Sampling:
    """How the model's publisher samples; `max_length` counts the prompt as well."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Fit:
    """How a prompt is shortened beyond dropping whole oldest rounds (`fit.prompt_to_fit`)."""

    max_rounds: int | None = None
    max_prompt_tokens: int | None = None
    # A last round that is too long by itself keeps its end, instead of being refused.
    cut_last_round: bool = False
    # Whether the assistant's header at the end of the prompt counts when rounds are dropped.
    count_header: bool = True
    # The prompt, header included, loses its beginning where it is then still too long.
    cut_prompt: bool = False


@dataclass(frozen=True)
class Template:
    """How a conversation is written. The assistant's turn must end with a learned stop token, or it never stops."""

    name: str
    start: tuple[Piece, ...]
    turns: dict[Role, Turn]
    stop_tokens: tuple[str, ...]
    # Whether the tokenizer sees an answer as the continuation of the text before it, or as a string of its own.
    answer: Literal["continued", "fresh"] = "continued"
    # How an answer is written once the conversation has gone on, where that differs; it is then not learned.
    past_answer: Turn | None = None
    # The system message stands inside the first user turn, between its header and its content.
    fold_system: bool = False
    # Stands where a conversation has no system message.
    default_system: str = ""
    default_system_with_input: str = ""
    # Between an Alpaca instruction and its input.
    input_separator: str = "\n"
    # Marks in the model's text and what they are shown as.
    replacements: tuple[tuple[str, str], ...] = ()
    fit: Fit = Fit()
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        footer = self.turns["assistant"].footer if "assistant" in self.turns else ()
        last = next((piece for piece in reversed(footer) if piece.learned), None)
        if last is None or not self._stops(last):
            raise InputError(
                f'template "{self.name}": the last learned piece after the assistant\'s content must be one of its '
                "stop_tokens, otherwise the model would never learn to stop."
            )

    def _stops(self, piece: Piece) -> bool:
        own_end = piece.kind == "special" and piece.value == "eos"
        return own_end or (piece.kind == "token" and piece.value in self.stop_tokens)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The names that the tokenizer must have."""
        turns = [*self.turns.values(), *([self.past_answer] if self.past_answer else [])]
        pieces = [*self.start, *(piece for turn in turns for piece in (*turn.header, *turn.footer))]
        return tuple(dict.fromkeys([piece.value for piece in pieces if piece.kind == "token"] + [*self.stop_tokens]))

    def stop_ids(self, tokenizer: Tokenizer) -> set[int]:
        """The ids that end a reply, the tokenizer's own end among them. Raises InputError where there are none."""
        ids = {*tokenizer.end_ids, *(tokenizer.token_id(name) for name in self.stop_tokens)}
        if not ids:
            raise InputError(f'template "{self.name}" needs a tokenizer with an end token, and this one names none.')
        return ids

    def segments(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[Segment]:
        """The conversation as tokens and texts with loss weights.

        With `add_generation_prompt` it ends where the assistant begins to speak, and is then a prefix of the same
        conversation with that answer. Raises InputError for a role that the template does not have.
        """
        messages = self._with_system(messages)
        parts: list[Segment | _Border] = [_fixed(piece, 0) for piece in self.start]
        folded: list[Segment] = []
        users = 0
        for number, message in enumerate(messages):
            users += message.role == "user"
            past = message.role == "assistant" and (add_generation_prompt or number < len(messages) - 1)
            turn = self._turn(message.role, number, past)
            speaks = message.role == "assistant" and turn is not self.past_answer
            weight = 0.0 if turn is self.past_answer else message.weight
            header, footer = ([_fixed(piece, users, weight) for piece in side] for side in (turn.header, turn.footer))
            content = Segment("text", self._content(message), weight)
            if message.role == "system" and self.fold_system:
                folded = [*header, content, *footer]
                continue
            if message.role == "user":
                header, folded = [*header, *folded], []
            # The model begins its answer at a border, so training cuts the text at the same place.
            given = len(turn.given) if speaks else len(header)
            parts += header[:given]
            parts += [_Border(self.answer == "fresh")] if speaks else []
            parts += [*header[given:], content]
            parts += [_Border()] if speaks else []
            parts += footer
        if folded:
            raise InputError(f'template "{self.name}" writes the system message into a user turn, and there is none.')
        if add_generation_prompt:
            parts += [_fixed(piece, users) for piece in self.turns["assistant"].given]
        return _join(parts)

    def _turn(self, role: Role, number: int, past: bool) -> Turn:
        if past and self.past_answer:
            return self.past_answer
        if role not in self.turns:
            raise InputError(
                f'message {number}: template "{self.name}" has no role "{role}", only {", ".join(self.turns)}.'
            )
        return self.turns[role]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, with the template's own system message where they have none."""
        default = self.default_system
        asked = next((message for message in messages if message.role == "user"), None)
        if asked is not None and asked.input_at is not None and self.default_system_with_input:
            default = self.default_system_with_input
        own = bool(messages) and messages[0].role == "system"
        return [*messages] if own or not default else [Message("system", default), *messages]

    def _content(self, message: Message) -> str:
        if message.input_at is None:
            return message.content.strip()
        parts = message.content[: message.input_at].strip(), message.content[message.input_at :].strip()
        return self.input_separator.join(parts)


def encode_segments(
    segments: Sequence[Segment], tokenizer: Tokenizer, dropout: float = 0.0, draws: np.random.Generator | None = None
) -> tuple[list[int], list[float]]:
    """Ids, and the loss weight of each. `dropout` passes over merges inside texts (BPE-dropout, arXiv 1910.13267)."""
    return encode_together([segments], tokenizer, dropout, draws)[0]


def encode_together(
    conversations: Sequence[Sequence[Segment]],
    tokenizer: Tokenizer,
    dropout: float = 0.0,
    draws: np.random.Generator | None = None,
) -> list[tuple[list[int], list[float]]]:
    """The same of many conversations, faster than one by one."""

    def encode(continued: bool) -> Iterator[list[int]]:
        texts = [
            one.value for chat in conversations for one in chat if one.kind == "text" and one.continued == continued
        ]
        if not dropout and len(conversations) == 1:
            return iter(tokenizer.encode_batch(texts, continued))
        ids, ends = tokenizer.encode_flat(texts, dropout, draws, continued)
        return iter([part.tolist() for part in np.split(ids, ends[:-1])] if texts else [])

    fresh, continued = encode(False), encode(True)
    encoded = []
    for chat in conversations:
        ids: list[int] = []
        weights: list[float] = []
        for segment in chat:
            if segment.kind == "text":
                new = next(continued if segment.continued else fresh)
            elif segment.kind == "special":
                new = tokenizer.start_ids if segment.value == "bos" else tokenizer.end_ids
            else:
                new = [tokenizer.token_id(segment.value)]
            ids += new
            weights += [segment.weight] * len(new)
        encoded.append((ids, weights))
    return encoded


def encode_chat(
    messages: Sequence[Message], template: Template, tokenizer: Tokenizer, add_generation_prompt: bool = False
) -> tuple[list[int], list[float]]:
    """Ids of a conversation, and the loss weight of each."""
    return encode_segments(template.segments(messages, add_generation_prompt), tokenizer)


def require_tokens(template: Template, tokenizer: Tokenizer) -> None:
    """Raises InputError with every control token of the template that the tokenizer lacks, or where nothing stops."""
    missing = [name for name in template.control_tokens if not tokenizer.has_token(name)]
    if missing:
        raise InputError(
            f'template "{template.name}" does not fit this tokenizer, which has no token {", ".join(missing)}: '
            "name another template (inkstone template list)"
        )
    template.stop_ids(tokenizer)


@dataclass(frozen=True)
class _Border:
    """Text is cut here; what follows continues it, or is a `fresh` string."""

    fresh: bool = False


def _fixed(piece: Piece, users: int, weight: float = 0.0) -> Segment:
    weight = weight if piece.learned else 0.0
    if piece.kind == "round":
        return Segment("text", str(int(piece.value) + max(users - 1, 0)), weight)
    return Segment(piece.kind, piece.value, weight)


def _join(parts: Iterable[Segment | _Border]) -> list[Segment]:
    """Neighbouring texts of one weight become one string for the tokenizer, except across a border."""
    joined: list[Segment] = []
    border: _Border | None = None
    for part in parts:
        if isinstance(part, _Border):
            border = part
            continue
        if part.kind == "text" and not part.value:
            continue
        last = joined[-1] if joined else None
        if last is None or last.kind != "text" or part.kind != "text":
            joined.append(part)
        elif border or last.weight != part.weight:
            joined.append(replace(part, continued=not (border and border.fresh)))
        else:
            joined[-1] = replace(last, value=last.value + part.value)
        border = None
    return joined
