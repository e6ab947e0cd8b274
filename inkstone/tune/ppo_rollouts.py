"""PPO's source of batches: a set of answers, weighed once and learned on for several steps, and ptx beside it.

A set is made by the policy as it is when its first step begins, and kept on disk with the log-probabilities, values and
advantages of that moment: a run that is killed in the middle of a set goes on with the set it was in. The mean of the
actor's weights (ema) is kept beside each checkpoint.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.model.decoder.lora import adapter_off
from inkstone.storage import atomic_file
from inkstone.train import Batch, Mesh
from inkstone.train.source import Source, SourceState
from inkstone.tune.grpo import answer_token_logprobs
from inkstone.tune.ppo import CRITIC, PpoSettings, adapted, advantages, answer_values, token_rewards, whitened
from inkstone.tune.rollouts import Rollouts
from inkstone.tune.score import score_documents

_FIELDS = ("tokens", "positions", "document_ids", "weights", "starts")


class PpoRollouts(Rollouts):
    """`judge` scores answers, `reference` is what the divergence is from; None: the policy without its adapter."""

    how: PpoSettings

    def __init__(self, *rollouts: Any, judge: Decoder | None, reference: Decoder | None, ptx: Source | None) -> None:
        super().__init__(*rollouts)
        self.judge, self.reference, self.ptx = judge, reference, ptx
        self.folder, self.kl = self.log.parent / "sets", self.how.kl
        self.rows_per_epoch *= self.how.updates
        self.step = 0
        self.mean = {name: weight.detach().clone() for name, weight in self._actor()} if self.how.ema else {}

    def draw(self, numbers: Sequence[int], micro_rows: int, mesh: Mesh) -> list[Batch]:
        """The set that the step belongs to, made where it is the set's first, and as many rows of ptx."""
        number = numbers[0] // self.rows_per_step // self.how.updates
        path = self.folder / f"set-{number:08d}-{mesh.data_rank}.safetensors"
        batches = self._read(path) if path.is_file() else self._make(number, micro_rows, mesh, path)
        return batches + (self.ptx.draw(numbers, micro_rows, mesh) if self.ptx else [])

    def learn(self, losses: Sequence[float], units: Sequence[float], mesh: Mesh) -> None:
        """Called after every update: the mean of the weights follows."""
        self.step += 1
        with torch.no_grad():
            for name, weight in self._actor() if self.mean else ():
                self.mean[name].mul_(self.how.ema).add_(weight.to(self.mean[name].device), alpha=1 - self.how.ema)

    def state(self) -> SourceState:
        if self.mean:
            path = self._mean_path(self.step)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as draft:
                save_file({name: weight.cpu() for name, weight in self.mean.items()}, draft)
        return {"step": self.step, "kl": self.kl}

    def restore(self, state: SourceState) -> None:
        self.step, self.kl = int(state["step"]), float(state["kl"])  # type: ignore[arg-type]
        if self.mean:
            self.mean = load_file(self._mean_path(self.step))

    def _actor(self) -> list[tuple[str, Tensor]]:
        return [
            (name, weight)
            for name, weight in self.policy.named_parameters()
            if weight.requires_grad and not name.startswith(f"{CRITIC}.")
        ]

    def _mean_path(self, step: int) -> Path:
        return self.folder.parent / "ema" / f"step-{step:08d}.safetensors"

    def _make(self, number: int, micro_rows: int, mesh: Mesh, path: Path) -> list[Batch]:
        asked = self._questions(number)[mesh.data_rank :: mesh.data_size]
        if not asked:
            raise InputError(f"a step asks {self.how.prompts} questions, fewer than the processes: raise prompts")
        prompts = [self.prompt(self.tasks[one]) for one in asked for _ in range(self.how.group)]
        answers = self._answers(prompts[:: self.how.group], number, mesh)
        end = self.tokenizer.token_id(self.template.stop_tokens[0]) if self.template.stop_tokens else min(self.stop_ids)
        said = [[*ids, end] if done else ids or [end] for ids, done in answers]
        worth = [self._worth(asked[at // self.how.group], one) for at, one in enumerate(answers)]
        if self.judge is not None:
            self.judge.to(self.policy.device)
            whole = [prompt + answer for prompt, answer in zip(prompts, said, strict=True)]
            scores = score_documents(self.judge, whole, self.sequence_length, self.tokenizer.fill_id)
            worth = [one + score for one, score in zip(worth, scores, strict=True)]
        rows = self.rows_of(list(zip(prompts, said, worth, strict=True)))
        batches = [Batch.stack(rows[start : start + micro_rows]) for start in range(0, len(rows), micro_rows)]
        with torch.no_grad():
            weighed = [self._weigh(batch.to(self.policy.device)) for batch in batches]
        divergence = float(torch.cat([gaps for _, gaps in weighed]).mean())
        spread = whitened(torch.cat([batch.columns["advantage"] for batch, _ in weighed]))
        parts = spread.split([len(batch.columns["advantage"]) for batch, _ in weighed])
        made = [
            replace(batch, columns={**batch.columns, "advantage": part}).to("cpu")
            for (batch, _), part in zip(weighed, parts, strict=True)
        ]
        self._told = {
            "reward": sum(worth) / len(worth),
            "kl": divergence,
            "kl_weight": self.kl,
            "answer_tokens": sum(map(len, said)) / len(said),
            "ended": sum(done for _, done in answers) / len(answers),
        }
        self.kl = adapted(self.kl, divergence, self.how.kl_target)
        self._keep(number, asked, answers, torch.tensor(worth).numpy(), mesh)
        self._write(path, made)
        return made

    def _weigh(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch with what its answers are worth token by token, and each token's divergence."""
        policy = self.policy
        logprobs_N, values_N = policy.compute(answer_token_logprobs, batch), policy.compute(answer_values, batch)
        if self.reference is None:
            with adapter_off(policy):
                reference_N = policy.compute(answer_token_logprobs, batch)
        else:
            self.reference.to(policy.device).compute_dtype = policy.compute_dtype
            reference_N = self.reference.compute(answer_token_logprobs, batch)
        documents_N = batch.document_ids[:, 1:][batch.weights[:, 1:] > 0]
        gained_N, returns_N = torch.zeros_like(values_N), torch.zeros_like(values_N)
        for document in documents_N.unique().tolist():
            at = documents_N == document
            score = float(batch.columns["advantage"][document])
            rewards = token_rewards(logprobs_N[at], reference_N[at], score, self.kl)
            gained_N[at], returns_N[at] = advantages(rewards, values_N[at], self.how.gamma, self.how.gae_lambda)
        columns = {"logprob": logprobs_N, "value": values_N, "advantage": gained_N, "return": returns_N}
        return replace(batch, columns=columns), logprobs_N - reference_N

    def _write(self, path: Path, batches: Sequence[Batch]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{at}/{name}": getattr(one, name) for at, one in enumerate(batches) for name in _FIELDS}
        tensors |= {f"{at}/column/{name}": c for at, one in enumerate(batches) for name, c in one.columns.items()}
        told = {"longest": [one.longest for one in batches], "kl": self.kl, "told": self._told}
        with atomic_file(path) as draft:
            save_file({name: one.contiguous() for name, one in tensors.items()}, draft, {"told": json.dumps(told)})

    def _read(self, path: Path) -> list[Batch]:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["told"])
        self.kl, self._told = told["kl"], told["told"]
        return [
            Batch(
                **{name: tensors[f"{at}/{name}"] for name in _FIELDS},
                longest=longest,
                columns={
                    name.rpartition("/")[2]: one for name, one in tensors.items() if name.startswith(f"{at}/column/")
                },
            )
            for at, longest in enumerate(told["longest"])
        ]
