"""From prompts in text to the tokens that are computed and scored, by the rules of a protocol.

Where a tokenizer joins the end of a prompt with the beginning of an answer, toolkits disagree about which tokens are
scored; `Protocol.cut` says which rule holds. Prompts that are too long lose examples or tokens as `Protocol.fit` says,
and what was lost is counted.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from inkstone.chat import Message
from inkstone.errors import InputError
from inkstone.evaluate.protocols.protocol import Ask, Protocol
from inkstone.generate.score import common_prefix
from inkstone.generate.score_shared import Choices
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.foreign.gguf import read_metadata


@dataclass(frozen=True)
class Planned:
    """The requests of one question, with what its prompt lost."""

    requests: list[Choices]
    tokens: int
    dropped: int = 0
    cut: int = 0


class Planner:
    """`limit`: the model's positions; None where it has no limit."""

    def __init__(self, tokenizer: Tokenizer, directory: Path, limit: int | None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self.default_start = default_start(tokenizer, directory)

    def start(self, protocol: Protocol) -> list[int]:
        if protocol.start is None:
            return self.default_start
        return self.tokenizer.start_ids if protocol.start else []

    def choices(self, protocol: Protocol, asks: Sequence[Ask]) -> list[Planned]:
        """What is scored for every question, in order."""
        limit = self._limit(protocol)
        prompts = [ask.contexts or (ask.prompt(),) for ask in asks]
        dropped = [0] * len(asks)
        if protocol.fit != "left" and limit is not None:
            for index, ask in enumerate(asks):
                texts = self._shrunk(protocol, ask, limit - self._longest_ending(protocol, ask))
                prompts[index], dropped[index] = (texts[0],), texts[1]
        if protocol.score in ("letter_piece", "letter_last"):
            encoded = self.tokenizer.encode_batch([texts[0] for texts in prompts])
            return [
                self._limited([Choices(self.start(protocol) + ids, self._letters(protocol, ask))], limit, lost)
                for ask, ids, lost in zip(asks, encoded, dropped, strict=True)
            ]
        return self._encoded(protocol, asks, prompts, dropped, limit)

    def prompt(
        self, protocol: Protocol, ask: Ask, encode: Callable[[Sequence[Message]], list[int]] | None = None
    ) -> Planned:
        """The prompt of a text to be written; `encode` where it is asked as a conversation."""
        limit = self._limit(protocol)
        if limit is not None and protocol.max_new_tokens >= limit:
            raise InputError(
                f"{protocol.label} lets the model write {protocol.max_new_tokens} tokens, and it has {limit} positions "
                "for prompt and answer: lower --max-new-tokens"
            )
        room = None if limit is None else limit - protocol.max_new_tokens
        count = len(ask.examples)
        while True:
            chosen = range(len(ask.examples))[:count]
            if encode:
                messages = [Message("system", ask.system)] if ask.system else []
                said = ask.rounds([ask.examples[number] for number in chosen])
                ids = encode(messages + [Message(role, text) for role, text in said])
            else:
                ids = self.start(protocol) + self.tokenizer.encode(ask.prompt(chosen))
            if room is None or len(ids) <= room or not count or protocol.fit == "left":
                break
            count -= 1
        cut = max(0, len(ids) - room) if room is not None else 0
        return Planned([Choices(ids[cut:], [])], len(ids) - cut, len(ask.examples) - count, cut)

    def _limit(self, protocol: Protocol) -> int | None:
        return min((one for one in (protocol.limit, self.limit) if one is not None), default=None)

    def _longest_ending(self, protocol: Protocol, ask: Ask) -> int:
        if protocol.score in ("letter_piece", "letter_last"):
            return 0
        return max(len(self.tokenizer.encode(ending)) for ending in ask.endings)

    def _shrunk(self, protocol: Protocol, ask: Ask, room: int) -> tuple[str, int]:
        """(prompt, examples dropped) so that it has at most `room` tokens, if that can be."""
        kept, start = list(range(len(ask.examples))), len(self.start(protocol))
        while True:
            text = ask.prompt(kept)
            if not kept or start + len(self.tokenizer.encode(text)) <= room:
                break
            longest = {"drop_first": 0, "drop_last": len(kept) - 1}.get(protocol.fit)
            if longest is None:
                sizes = [len("".join(ask.examples[number])) for number in kept]
                longest = sizes.index(max(sizes))
            kept.pop(longest)
        if not kept and protocol.fit == "drop_longest" and start + len(self.tokenizer.encode(text)) > room:
            text = ask.prompt(kept, header=False)
        return text, len(ask.examples) - len(kept)

    def _letters(self, protocol: Protocol, ask: Ask) -> list[list[int]]:
        if protocol.score == "letter_last":
            return [ids[-1:] for ids in self.tokenizer.encode_batch(list(ask.endings))]
        missing = [ending for ending in ask.endings if not self.tokenizer.has_token(ending)]
        if missing:
            raise InputError(
                f"{protocol.label} compares the tokens named {', '.join(ask.endings)}, and this vocabulary has no "
                f"{', '.join(missing)}: use another protocol, e.g. {protocol.task}@house"
            )
        return [[self.tokenizer.token_id(ending)] for ending in ask.endings]

    def _encoded(
        self,
        protocol: Protocol,
        asks: Sequence[Ask],
        prompts: Sequence[tuple[str, ...]],
        dropped: Sequence[int],
        limit: int | None,
    ) -> list[Planned]:
        """Prompt and ending encoded as one text, cut where the protocol says."""
        texts: list[str] = []
        for ask, beginnings in zip(asks, prompts, strict=True):
            for prompt in beginnings:
                shown = prompt.rstrip(" ") if protocol.cut == "length" else prompt
                texts += [shown, *(prompt + ending for ending in ask.endings)]
        ids = iter(self.tokenizer.encode_batch(texts))
        start = self.start(protocol)
        planned = []
        for ask, beginnings, lost in zip(asks, prompts, dropped, strict=True):
            requests = []
            for _ in beginnings:
                prompt_ids, wholes = next(ids), [next(ids) for _ in ask.endings]
                requests.append(_cut(protocol, start, prompt_ids, wholes))
            planned.append(self._limited(requests, limit, lost))
        return planned

    def _limited(self, requests: list[Choices], limit: int | None, dropped: int) -> Planned:
        """What still is too long loses tokens on the left, ending by ending, as each has its own length."""
        cut, fitting = 0, []
        for one in requests:
            # The last token of an ending is not fed, so there is room for one more.
            over = 0 if limit is None else len(one.context) + max(map(len, one.continuations)) - limit - 1
            if over <= 0:
                fitting.append(one)
                continue
            cut = max(cut, over)
            for ids in one.continuations:
                room = max(1, (limit or 0) + 1 - len(ids))
                fitting.append(Choices(one.context[-room:], [ids[: limit or 0]], one.whole))
        return Planned(fitting, max(len(one.context) for one in requests), dropped, cut)


def _cut(protocol: Protocol, start: list[int], prompt: list[int], wholes: list[list[int]]) -> Choices:
    if protocol.score == "whole":
        shared = max(1, min(common_prefix(wholes), min(map(len, wholes)) - 1))
        shared += 0 if len(wholes[0]) > shared else -1
        return Choices(start + wholes[0][:shared], [ids[shared:] for ids in wholes], whole=True)
    if protocol.cut == "length":
        endings = [ids[len(prompt) :] for ids in wholes]
        if all(endings):
            return Choices(start + prompt, endings)
    boundary = common_prefix([prompt, *wholes])
    if not start:
        boundary = max(boundary, 1)
    # What every letter's encoding begins with (a space of its own) decides nothing between them.
    if protocol.ending.strip() == "{letter}" and protocol.cut == "agree":
        boundary = max(boundary, min(common_prefix(wholes), min(map(len, wholes)) - 1))
    return Choices(start + wholes[0][:boundary], [ids[boundary:] for ids in wholes])


def default_start(tokenizer: Tokenizer, directory: Path) -> list[int]:
    """What the tokenizer's own files put before a text: a post-processor in tokenizer.json, or `add_bos_token`."""
    path, config = directory / "tokenizer.json", directory / "tokenizer_config.json"
    if (
        directory.is_file()
    ):  # GGUF; where it does not say, SentencePiece vocabularies begin a text there and others do not
        keys = read_metadata(directory)
        adds = keys.get("tokenizer.ggml.add_bos_token", keys.get("tokenizer.ggml.model") == "llama")
        return tokenizer.start_ids if adds else []
    if path.is_file():
        backend = tokenizers.Tokenizer.from_file(str(path))
        plain, marked = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
        return list(marked[: next(at for at in range(len(marked)) if marked[at : at + len(plain)] == plain)])
    said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    adds = said.get("add_bos_token", "llama" in str(said.get("tokenizer_class", "")).lower())
    return tokenizer.start_ids if adds else []
