"""GRPO's source of batches: the policy answers each question several times, and answers are compared in their group.

The advantage of an answer is its reward less the mean of its group, over the group's deviation (Shao et al. 2024, arXiv
2402.03300) or plain (Dr. GRPO, Liu et al. 2025, 2503.20783). Which questions a step asks and which random numbers it
draws are functions of the seed and of the rows behind the run alone, so a run that was killed goes on as it would have.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from inkstone.chat import Message, Template, encode_chat
from inkstone.errors import InputError
from inkstone.generate import Engine, Request, SamplingSettings
from inkstone.model import BLOCK, Decoder
from inkstone.tokenizer import Tokenizer
from inkstone.train import Batch, Mesh, Row
from inkstone.train.source import SourceState
from inkstone.tune.grpo import GrpoSettings, RolloutSettings
from inkstone.tune.packing import best_fit_decreasing
from inkstone.tune.rewards import ENDS, Reward, Task, reward_of

_ROWS = 64
Answer = tuple[list[int], bool]
"""The new tokens, and whether they ended by themselves."""


class Rollouts:
    """Deals the answers of a step as packed rows, with their advantages in a column."""

    def __init__(
        self,
        policy: Decoder,
        tokenizer: Tokenizer,
        template: Template,
        tasks: Sequence[Task],
        rewards: Mapping[str, Reward],
        how: RolloutSettings,
        sequence_length: int,
        rows_per_step: int,
        seed: int,
        log: Path,
    ) -> None:
        self.policy, self.tokenizer, self.template, self.tasks, self.rewards = (
            policy,
            tokenizer,
            template,
            tasks,
            rewards,
        )
        self.how, self.sequence_length, self.seed, self.log = how, sequence_length, seed, log
        self.rows_per_step = rows_per_step
        self.rows_per_epoch = rows_per_step * max(1, len(tasks) // how.prompts)
        self.stop_ids = template.stop_ids(tokenizer)
        self._told: dict[str, float] = {}
        self.divides = isinstance(how, GrpoSettings) and how.divide_by_deviation

    def draw(self, numbers: Sequence[int], micro_rows: int, mesh: Mesh) -> list[Batch]:
        """This data rank's share of a step's questions, answered and weighed."""
        step = numbers[0] // self.rows_per_step
        asked = self._questions(step)[mesh.data_rank :: mesh.data_size]
        if not asked:
            raise InputError(f"a step asks {self.how.prompts} questions, fewer than the processes: raise prompts")
        prompts = [self.prompt(self.tasks[number]) for number in asked]
        answers = self._answers(prompts, step, mesh)
        worth = np.array([self._worth(asked[at // self.how.group], one) for at, one in enumerate(answers)])
        grouped = worth.reshape(-1, self.how.group)
        advantages = grouped - grouped.mean(1, keepdims=True)
        if self.divides:
            advantages /= grouped.std(1, keepdims=True) + 1e-4
        lengths = [len(ids) for ids, _ in answers]
        ended = [done for _, done in answers]
        self._told = {
            "reward": float(worth.mean()),
            "reward_deviation": float(grouped.std(1).mean()),
            "answer_tokens": float(np.mean(lengths)),
            "ended": float(np.mean(ended)),
        }
        self._keep(step, asked, answers, worth, mesh)
        end = self.tokenizer.token_id(self.template.stop_tokens[0]) if self.template.stop_tokens else min(self.stop_ids)
        documents = [
            (prompts[at // self.how.group], [*ids, end] if done else ids, float(advantage))
            for at, ((ids, done), advantage) in enumerate(zip(answers, advantages.flatten(), strict=True))
        ]
        rows = self.rows_of(documents)
        return [Batch.stack(rows[start : start + micro_rows]) for start in range(0, len(rows), micro_rows)]

    def check_lengths(self, tasks: Sequence[Task]) -> None:
        """Raises InputError where a question and its longest answer do not fit a row."""
        longest = max(len(self.prompt(task)) for task in tasks)
        if longest + self.how.max_new_tokens >= self.sequence_length:
            raise InputError(
                f"the longest question has {longest} tokens and an answer may have {self.how.max_new_tokens}: together "
                f"more than sequence_length = {self.sequence_length}"
            )

    def prompt(self, task: Task) -> list[int]:
        """The ids of a question, up to where the assistant speaks."""
        ids, _ = encode_chat(
            [Message("user", task.question)], self.template, self.tokenizer, add_generation_prompt=True
        )
        return ids

    def _questions(self, step: int) -> list[int]:
        """Numbers of the questions that a step asks: each once in an epoch, in a new order every time."""
        per_epoch = max(1, len(self.tasks) // self.how.prompts)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.tasks))
        chosen: list[int] = order[place * self.how.prompts : (place + 1) * self.how.prompts].tolist()
        return chosen

    def _answers(self, prompts: Sequence[list[int]], step: int, mesh: Mesh) -> list[Answer]:
        """`group` answers to each prompt, in order."""
        first = (step * mesh.data_size + mesh.data_rank) * len(prompts) * self.how.group
        requests = [
            Request(
                prompt,
                SamplingSettings(
                    temperature=self.how.temperature,
                    max_new_tokens=self.how.max_new_tokens,
                    seed=self.seed * 2**40 + first + number * self.how.group + sample,
                ),
                self.stop_ids,
            )
            for number, prompt in enumerate(prompts)
            for sample in range(self.how.group)
        ]
        return answer_all(self.policy, requests)

    def _worth(self, number: int, answer: Answer) -> float:
        ids, ended = answer
        text = self.tokenizer.decode(ids, skip_control=True)
        bonus = float(ended) if ENDS in self.how.rewards else 0.0
        return bonus + reward_of(self.rewards, self.tasks[number], text)

    def rows_of(self, documents: Sequence[tuple[list[int], list[int], float]]) -> list[Row]:
        """Prompts with their answers, packed; an answer's tokens weigh 1, the end that closes it too."""
        sizes = [min(len(prompt) + len(ids), self.sequence_length) for prompt, ids, _ in documents]
        bins = best_fit_decreasing(sizes, self.sequence_length)
        return [self._row([documents[number] for number in members]) for members in bins]

    def _row(self, documents: Sequence[tuple[list[int], list[int], float]]) -> Row:
        length = self.sequence_length
        tokens, positions = np.full(length, self.tokenizer.fill_id, np.int64), np.arange(length)
        ids, weights = np.full(length, len(documents), np.int64), np.zeros(length, np.float32)
        filled = 0
        for place, (prompt, answer, _) in enumerate(documents):
            whole = [*prompt, *answer][: length - filled]
            span = slice(filled, filled + len(whole))
            tokens[span], ids[span], positions[span] = whole, place, np.arange(len(whole))
            weights[filled + len(prompt) : filled + len(whole)] = 1.0
            filled += len(whole)
        advantages = [advantage for *_, advantage in documents] + ([0.0] if filled < length else [])
        return Row(tokens, positions, ids, weights, {"advantage": np.array(advantages, np.float32)})

    def _keep(self, step: int, asked: Sequence[int], answers: Sequence[Answer], worth: np.ndarray, mesh: Mesh) -> None:
        """One line for each answer, to be read by people; a step that is done again replaces its own."""
        if not mesh.first:
            return
        old = self.log.read_text(encoding="utf-8").splitlines() if self.log.is_file() else []
        lines = [line for line in old if line.endswith("}") and json.loads(line)["step"] < step]
        for at, (ids, ended) in enumerate(answers):
            task = self.tasks[asked[at // self.how.group]]
            text = self.tokenizer.decode(ids, skip_control=True)
            row = {"step": step, "question": task.question, "answer": text, "reward": float(worth[at]), "ended": ended}
            lines.append(json.dumps(row, ensure_ascii=False))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def learn(self, losses: Sequence[float], units: Sequence[float], mesh: Mesh) -> None: ...

    def figures(self) -> dict[str, float]:
        return self._told

    def state(self) -> SourceState:
        return {}

    def restore(self, state: SourceState) -> None: ...


def answer_all(policy: Decoder, requests: Sequence[Request]) -> list[Answer]:
    """Every request's answer, in order, from the policy as it is now; its blocks run uncompiled here."""
    was_training = policy.training
    policy.eval()
    sizes = sorted((len(one.prompt) + one.sampling.max_new_tokens for one in requests), reverse=True)[:_ROWS]
    engine = Engine(policy, sum(-(-size // BLOCK) * BLOCK for size in sizes), _ROWS)
    numbers = {engine.submit(request): place for place, request in enumerate(requests)}
    tokens: list[list[int]] = [[] for _ in requests]
    ended = [False] * len(requests)
    with torch.compiler.set_stance("force_eager"):
        while engine.busy:
            for delta in engine.step():
                place = numbers[delta.id]
                if delta.token is not None:
                    tokens[place].append(delta.token)
                ended[place] = ended[place] or delta.finish == "stop"
    policy.train(was_training)
    return list(zip(tokens, ended, strict=True))
