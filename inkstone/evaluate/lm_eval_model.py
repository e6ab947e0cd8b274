"""Our engine as a model inside lm-evaluation-harness, so that each of its tasks runs on Inkstone.

    python -m inkstone.evaluate.lm_eval_model run --model inkstone --model_args pretrained=DIR --tasks hellaswag

This is lm-eval's own command line with one more model, `inkstone` (arguments: pretrained, dtype, device). lm-eval
itself is not a dependency: pip install lm-eval.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401 - registers the models that lm-eval has itself
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from inkstone.errors import InputError
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.model import Writing
from inkstone.generate.score_shared import Choices, score_choices


@register_model("inkstone")
class InkstoneLM(TemplateLM):
    """Scores with shared prefixes, writes with continuous batching; over-long contexts lose tokens on the left."""

    def __init__(self, pretrained: str, dtype: str = "float32", device: str | None = None, **_: Any) -> None:
        super().__init__()
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.local = LocalModel(Path(pretrained), getattr(torch, dtype), where)
        self.limit = self.local.opened.model.position_limit or 1 << 20

    @property
    def eot_token_id(self) -> int:
        return self.local.opened.tokenizer.last_id

    @property
    def prefix_token_id(self) -> int:
        return self.local.opened.tokenizer.first_id

    @property
    def tokenizer_name(self) -> str:
        return self.local.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        start = [] if add_special_tokens is False else self.local.planner.default_start
        return [*start, *self.local.opened.tokenizer.encode(string)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise InputError("conversations are asked by inkstone evaluate, with control tokens: see docs/evaluate.md")

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, continuation) in enumerate(requests):
            room = max(1, self.limit + 1 - len(continuation))
            groups.setdefault(tuple(context[-room:]), []).append(number)
        asked = [Choices(list(context), [requests[one][2] for one in own]) for context, own in groups.items()]
        found: dict[int, tuple[float, bool]] = {}
        places = list(groups.values())
        for index, scored in score_choices(self.local.opened.model, asked):
            found |= {number: (one.logprob, one.greedy) for number, one in zip(places[index], scored, strict=True)}
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Consecutive windows that each start from the begin token."""
        size, first, pairs, owner = self.limit - 1, self.prefix_token_id, [], []
        for number, request in enumerate(requests):
            ids = self.local.opened.tokenizer.encode(request.args[0])
            windows = [ids[at : at + size] for at in range(0, len(ids), size)]
            pairs += [(None, [first], window) for window in windows]
            owner += [number] * len(windows)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owner, self._loglikelihood_tokens(pairs), strict=True):
            totals[number] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        prompts, writing = [], []
        for request in requests:
            text, options = request.args
            until = options.get("until") or []
            new = int(options.get("max_gen_toks", 256))
            how = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            prompts.append(self.tok_encode(text)[-max(1, self.limit - new) :])
            writing.append(Writing(new, tuple([until] if isinstance(until, str) else until), temperature=how))
        texts = {index: said[0] for index, said in self.local.write(prompts, writing)}
        return [texts[index] for index in range(len(requests))]


if __name__ == "__main__":
    cli_evaluate()
