"""A model directory as a model under test: any family, quantised or not, with shared prefixes and the batching engine.

`plan.py` says which tokens are scored; here they are computed.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch

from inkstone.chat import Message, encode_chat
from inkstone.errors import InputError
from inkstone.evaluate.protocols.protocol import Ask, Protocol
from inkstone.evaluate.run.model import Said, Writing, cut_at_stop
from inkstone.evaluate.run.plan import Planned, Planner
from inkstone.generate import Engine, Request, SamplingSettings
from inkstone.generate.score_shared import score_choices
from inkstone.model import BLOCK, Opened, open_directory
from inkstone.model.files.hub import resolve_source
from inkstone.model.files.offload import Offload
from inkstone.model.opened import states_template
from inkstone.model.packed.pack import Kind
from inkstone.storage import file_sha256, fingerprint

_ROWS = 32
_TOGETHER = 1024
_EDGE = 1 << 20


class LocalModel:
    """`as_base`: a chat model is asked in plain text too."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        as_base: bool = False,
        opened: Opened | None = None,
        adapter: Path | None = None,
        quantize: Kind | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.directory = resolve_source(str(directory))
        self.name = "+".join(path.resolve().name for path in (self.directory, adapter) if path)
        self.adapter = adapter
        self.opened = opened or open_directory(
            self.directory, dtype, device, adapter=adapter, quantize=quantize, offload=offload
        )
        stated = any(states_template(path) for path in (self.directory, adapter) if path) and not as_base
        self.template = self.opened.template if stated else None
        self.dtype = str(dtype).removeprefix("torch.") + (f" {quantize}" if quantize else "")
        self.planner = Planner(self.opened.tokenizer, self.directory, self.opened.model.position_limit)

    @cached_property
    def fingerprint(self) -> str:
        """Of the configuration, the tokenizer and the beginning and end of every file of weights."""
        parts: list[object] = [self.dtype, self.template is not None, self.opened.tokenizer.fingerprint]
        whole = self.directory.is_file()  # GGUF
        parts += [] if whole else [file_sha256(self.directory / "config.json")]
        folders = [*([] if whole else [self.directory]), *([self.adapter] if self.adapter else [])]
        files = [self.directory] * whole + [path for folder in folders for path in sorted(folder.iterdir())]
        for path in files:
            if path.suffix in (".safetensors", ".bin", ".gguf"):
                with path.open("rb") as stream:
                    first = stream.read(_EDGE)
                    stream.seek(max(0, path.stat().st_size - _EDGE))
                    parts.append([path.name, path.stat().st_size, first.hex()[:64], fingerprint(stream.read().hex())])
        return fingerprint(parts)[:12]

    def answer(self, protocol: Protocol, asks: Sequence[Ask], missing: Sequence[int]) -> Iterator[tuple[int, Said]]:
        if protocol.score == "write":
            yield from self._write(protocol, asks, missing)
            return
        # Always the same questions together, whichever are missing; not all at once, for their ids take memory.
        for start in range(0, len(asks), _TOGETHER):
            some = asks[start : start + _TOGETHER]
            wanted = [index - start for index in missing if 0 <= index - start < len(some)]
            if wanted:
                yield from ((start + index, said) for index, said in self._choose(protocol, some, wanted))

    def _choose(self, protocol: Protocol, asks: Sequence[Ask], missing: Sequence[int]) -> Iterator[tuple[int, Said]]:
        planned = self.planner.choices(protocol, asks)
        requests = [request for one in planned for request in one.requests]
        owner = [index for index, one in enumerate(planned) for _ in one.requests]
        first = {index: number for number, index in reversed(list(enumerate(owner)))}
        wanted = set(missing)
        waiting = {index: dict[int, Said]() for index in range(len(asks))}
        only = [number for number, index in enumerate(owner) if index in wanted]
        for number, scored in score_choices(self.opened.model, requests, only):
            index = owner[number]
            mean = protocol.score == "whole"
            values = tuple(one.logprob / (one.tokens + 1) if mean else one.logprob for one in scored)
            waiting[index][number - first[index]] = Said(values, tuple(one.greedy for one in scored))
            if len(waiting[index]) == len(planned[index].requests):
                parts = [part for _, part in sorted(waiting.pop(index).items())]
                yield index, _joined(parts, planned[index])

    def talk(self, conversations: Sequence[Sequence[Message]], writing: Sequence[Writing]) -> Iterator[tuple[int, str]]:
        if self.template is None:
            raise InputError(
                f"{self.directory} states no chat template: inkstone template attach NAME {self.directory}"
            )
        prompts = [self._conversation(one) for one in conversations]
        for index, texts in self.write(prompts, writing):
            yield index, texts[0]

    def _conversation(self, messages: Sequence[Message]) -> list[int]:
        assert self.template is not None
        ids, _ = encode_chat(messages, self.template, self.opened.tokenizer, add_generation_prompt=True)
        return list(ids)

    def _write(self, protocol: Protocol, asks: Sequence[Ask], missing: Sequence[int]) -> Iterator[tuple[int, Said]]:
        chat = protocol.turns and self.template is not None
        encode = self._conversation if chat else None
        planned = [self.planner.prompt(protocol, asks[index], encode) for index in missing]
        writing = Writing(
            protocol.max_new_tokens, protocol.stops, protocol.until, protocol.temperature, protocol.samples
        )
        for place, texts in self.write([one.requests[0].context for one in planned], [writing] * len(planned)):
            one = planned[place]
            yield missing[place], Said(texts=texts, tokens=one.tokens, dropped=one.dropped, cut=one.cut)

    def write(self, prompts: Sequence[list[int]], writing: Sequence[Writing]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """(index, its samples) as they are complete; a text ends at a stop string or once it says what is read."""
        model, tokenizer = self.opened.model, self.opened.tokenizer
        sizes = sorted((len(one) + how.max_new_tokens for one, how in zip(prompts, writing, strict=True)), reverse=True)
        blocks = sum(-(-size // BLOCK) for size in (sizes * max((how.samples for how in writing), default=1))[:_ROWS])
        engine = Engine(model, blocks * BLOCK, _ROWS)
        owner: dict[int, tuple[int, int]] = {}
        for index, (prompt, how) in enumerate(zip(prompts, writing, strict=True)):
            for sample in range(how.samples):
                sampling = SamplingSettings(
                    temperature=how.temperature, max_new_tokens=how.max_new_tokens, seed=how.seed + sample
                )
                owner[engine.submit(Request(prompt, sampling, self.opened.stop_ids))] = index, sample
        written: dict[int, list[int]] = {number: [] for number in owner}
        texts: dict[int, dict[int, str]] = {index: {} for index in range(len(prompts))}
        while engine.busy:
            for delta in engine.step():
                index, sample = owner[delta.id]
                how = writing[index]
                if delta.token is not None:
                    written[delta.id].append(delta.token)
                stopped, text = False, ""
                if delta.finish or how.stops or how.until:
                    text = tokenizer.decode(written[delta.id], skip_control=True)
                    text, stopped = cut_at_stop(text, how.stops)
                    stopped = stopped or bool(how.until and re.search(how.until, text))
                if stopped and not delta.finish:
                    engine.cancel(delta.id)
                if stopped or delta.finish:
                    texts[index][sample] = text
                    if len(texts[index]) == how.samples:
                        yield index, tuple(text for _, text in sorted(texts[index].items()))


def _joined(parts: Sequence[Said], planned: Planned) -> Said:
    """One answer from the results of each of its requests, in the order of the choices."""
    values = tuple(value for part in parts for value in part.values)
    greedy = tuple(value for part in parts for value in part.greedy)
    return Said(values, greedy, tokens=planned.tokens, dropped=planned.dropped, cut=planned.cut)
