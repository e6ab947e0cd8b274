"""From prompt texts to token ids to be scored, with the boundary between prompt and answer in the right place.

A `Sketch` is a prompt still in pieces: header, worked examples, question, and one ending per choice. `plan` encodes
prompt+ending as ONE text, because a tokenizer may join the two, and cuts where all of a question's encodings and the
prompt's own stop agreeing: whatever straddles the join is scored, nothing is lost. Prompts that do not fit the
model's positions lose examples from the front, one at a time; what was dropped is recorded in each request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inkstone.generate.score import common_prefix


class Encoder(Protocol):
    """The part of a tokenizer that building requests needs."""

    @property
    def start_ids(self) -> list[int]: ...

    def encode_batch(self, texts: list[str], /) -> list[list[int]]: ...


@dataclass(frozen=True)
class Sketch:
    """A prompt in pieces: header + examples (each with its separator) + question, then one of `endings`."""

    header: str
    examples: tuple[str, ...]
    question: str
    endings: tuple[str, ...]

    def prompt(self, shots: int) -> str:
        """The prompt with its last `shots` examples."""
        return self.header + "".join(self.examples[len(self.examples) - shots :]) + self.question


@dataclass(frozen=True)
class ChoiceRequest:
    """Score each continuation given the context; `shots` examples are in it, `cut` tokens were lost on its left."""

    context: list[int]
    continuations: list[list[int]]
    shots: int
    dropped: int
    cut: int

    @property
    def single_token(self) -> bool:
        """Whether one look at the next token decides between all continuations."""
        return all(len(continuation) == 1 for continuation in self.continuations)


def plan(sketches: Sequence[Sketch], encoder: Encoder, max_positions: int, share: bool = False) -> list[ChoiceRequest]:
    """One request per sketch. With `share`, leading tokens common to all endings become part of the context.

    `share` never changes which continuation is likeliest, but it changes the sums: use it where only the choice
    counts (option letters), not where a sum is divided by a length.
    """
    ready: dict[int, ChoiceRequest] = {}
    shots = {index: len(sketch.examples) for index, sketch in enumerate(sketches)}
    while len(ready) < len(sketches):
        waiting = [index for index in shots if index not in ready]
        for index, (prompt, endings) in zip(waiting, _encode(sketches, shots, waiting, encoder), strict=True):
            if len(encoder.start_ids) + max(map(len, endings)) > max_positions and shots[index] > 0:
                shots[index] -= 1
                continue
            dropped = len(sketches[index].examples) - shots[index]
            ready[index] = _request(prompt, endings, encoder.start_ids, max_positions, share, shots[index], dropped)
    return [ready[index] for index in range(len(sketches))]


def _encode(
    sketches: Sequence[Sketch], shots: dict[int, int], waiting: list[int], encoder: Encoder
) -> list[tuple[list[int], list[list[int]]]]:
    """(prompt ids, ids of prompt + ending for each ending) of every waiting sketch, encoded in one batch."""
    texts: list[str] = []
    for index in waiting:
        prompt = sketches[index].prompt(shots[index])
        texts += [prompt, *(prompt + ending for ending in sketches[index].endings)]
    encoded = iter(encoder.encode_batch(texts))
    return [(next(encoded), [next(encoded) for _ in sketches[index].endings]) for index in waiting]


def _request(
    prompt: list[int],
    endings: list[list[int]],
    start: list[int],
    max_positions: int,
    share: bool,
    shots: int,
    dropped: int,
) -> ChoiceRequest:
    boundary = common_prefix([prompt, *endings])
    if share:
        boundary = max(boundary, min(common_prefix(endings), min(map(len, endings)) - 1))
    context, continuations = endings[0][:boundary], [ids[boundary:] for ids in endings]
    room = max(0, max_positions - len(start) - max(map(len, continuations)))
    cut = max(0, len(context) - room)
    return ChoiceRequest([*start, *context[cut:]], continuations, shots, dropped, cut)
