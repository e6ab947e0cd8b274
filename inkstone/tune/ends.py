"""Both ends of a tuning stage, whatever it learns from: the base that is opened, the directory that is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inkstone.chat import Message, Template, attach_template, find_template, require_tokens
from inkstone.chat.messages import ROLES
from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.model.files.adapter import FOLDER, save_prefix
from inkstone.progress import Progress
from inkstone.tokenizer import Tokenizer
from inkstone.train import Mesh, Objective, TrainResult, finish, train
from inkstone.train.batches import Rows
from inkstone.train.mesh import ALONE
from inkstone.train.parallelize import gathered, open_model
from inkstone.train.source import Source
from inkstone.tune.adapter import attach, save_and_merge
from inkstone.tune.encoded import Kept
from inkstone.tune.settings import SFTSettings


@dataclass(frozen=True)
class Work:
    """What a tuning stage is given, whatever its method."""

    settings: SFTSettings
    inputs: Sequence[Path]
    base_dir: Path
    output: Path
    scratch: Path
    progress: Progress
    mesh: Mesh = ALONE
    tests: Sequence[Path] = ()
    """Rows to test on instead of a share of the inputs."""
    judge_dir: Path | None = None
    """PPO: a reward model's directory."""
    texts: Sequence[Path] = ()
    """Plain texts that are learned whole beside conversations."""
    ptx: Sequence[Path] = ()
    """PPO: conversations that are learned on beside the answers."""
    tuned_on: Sequence[Path] = ()
    """PPO and GRPO: conversations that the base was tuned on, which prompts are compared with."""
    others: Sequence[Path] = ()
    """A merge: the models to join with the base, and last what all come from, if it is needed."""
    rows: Path | None = None
    """Where encoded rows stay for the next run; default: in scratch."""

    def kept(self, tokenizer: Tokenizer) -> Kept:
        """This work's encoded rows."""
        return Kept(self.rows or self.scratch / "rows", tokenizer, self.progress, self.mesh)

    def train(
        self, model: Decoder, source: Source, objective: Objective | None = None, heldout: Rows | None = None
    ) -> TrainResult:
        """The one loop, on this work's settings and places."""
        places = (self.settings, self.scratch, self.progress)
        return train(model, source, *places, heldout=heldout, objective=objective, mesh=self.mesh)


def open_base(work: Work) -> tuple[Template, Tokenizer, Decoder]:
    """What a stage starts from: template, tokenizer, and the model with its adapter attached."""
    settings, base_dir, mesh = work.settings, work.base_dir, work.mesh
    template = find_template(base_dir, None if settings.template == "auto" else settings.template)
    tokenizer = Tokenizer.load(base_dir)
    require_tokens(template, tokenizer)
    model = open_model(base_dir, mesh)
    if settings.adapted:
        attach(model, settings.adapted, settings.seed, mesh.whole)
    if settings.sequence_length > model.max_positions:
        before = model.config.max_positions - model.max_positions
        raise InputError(
            f"[sft] sequence_length = {settings.sequence_length} exceeds the model's {model.config.max_positions} "
            f"positions{f', of which the prefix takes {before}' if before else ''}: shorten it"
        )
    return template, tokenizer, model


def write_tuned(work: Work, model: Decoder, template: Template, tokenizer: Tokenizer) -> None:
    """The model directory with its template; LoRA is kept apart and merged, a prefix lies beside the base's weights."""
    output, scratch = work.output, work.scratch
    model = gathered(model, work.mesh)
    if not work.mesh.first:
        return
    if work.settings.adapter == "lora":
        model = save_and_merge(model, output, work.base_dir)
        attach_template(template, tokenizer, output / "adapter")
    elif work.settings.adapter == "prefix":
        save_prefix(model, output / FOLDER, str(work.base_dir))
        attach_template(template, tokenizer, output / FOLDER)
    stop_ids = sorted(template.stop_ids(tokenizer))
    whole = work.base_dir if work.settings.adapter == "prefix" else model
    finish(whole, tokenizer, scratch, output, stop_ids, lambda folder: attach_template(template, tokenizer, folder))


def roles_of(chats: Sequence[Sequence[Message]]) -> Counter[str]:
    """How many conversations there are, and how many use each role."""
    used = Counter(role for chat in chats for role in {message.role for message in chat})
    return Counter({"chats": len(chats), **{f"role {role}": count for role, count in used.items()}})


def check_roles(used: Mapping[str, int], template: Template) -> None:
    """Refuse conversations with roles that the template has no place for, as `roles_of` counts them."""
    problems = [
        f'[sft] template = "{template.name}" has no role "{role}", which {used[f"role {role}"]} of {used["chats"]} '
        "conversations use: take these messages out, or choose a template that has it (inkstone template list)"
        for role in sorted(ROLES)
        if used.get(f"role {role}") and role not in template.turns
    ]
    if problems:
        raise InputError(problems)


def heldout_numbers(count: int, fraction: float) -> NDArray[np.int64]:
    """Every n-th of `count` examples, spread evenly over the files; none where there is one alone."""
    return np.arange(0, count, max(2, round(1 / fraction))) if fraction and count > 1 else np.zeros(0, np.int64)
