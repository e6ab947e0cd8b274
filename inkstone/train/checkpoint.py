"""Training checkpoints: weights, optimizer moments and the loop's state, enough to continue to the same last bit.

    save_checkpoint(folder, state, model, optimizer)   # folder/step-00000100/, atomic; the newest two are kept
    state = load_checkpoint(folder, model, optimizer)  # the newest complete one, or None

Tensors are safetensors and the state is JSON: PyTorch's distributed checkpoint writes its metadata with pickle, which
this project never does.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkstone.errors import InkstoneError
from inkstone.storage import atomic_directory, settle, verify_manifest, write_manifest
from inkstone.train.source import SourceState

_KEEP = 2


@dataclass
class TrainState:
    """What the loop knows besides weights and moments. `step` optimizer steps are done.

    `skipped_rows` are ranges [first, end) of the endless order that are to be passed over; `figures` are the last
    step's sums, which the objective is told; `source` is what the source wants to find again.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_in_a_row: int = 0
    skipped: int = 0
    loss: float | None = None
    heldout_loss: float | None = None
    arithmetic: dict[str, str | bool] = field(default_factory=dict)
    rows_drawn: int | None = None
    skipped_rows: list[list[int]] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    source: SourceState = field(default_factory=dict)

    def rows_behind(self, rows_per_step: int) -> int:
        """Rows of the endless order that are trained on or passed over; older checkpoints did not say."""
        return self.step * rows_per_step if self.rows_drawn is None else self.rows_drawn


def save_checkpoint(folder: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write `folder/step-N` and drop all but the newest two."""
    with atomic_directory(folder / f"step-{state.step:08d}") as draft:
        save_file(
            {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}, draft / "model.safetensors"
        )
        save_file(_moments(model, optimizer), draft / "optimizer.safetensors")
        (draft / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        write_manifest(draft, {"step": state.step})
    kept = _complete(folder)[-_KEEP:]
    for old in folder.glob("step-*"):
        if old not in kept:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    """Load the newest checkpoint that is whole into `model` and `optimizer`; None when there is none.

    Raises InkstoneError when every checkpoint there is damaged: silently starting over would lose the run.
    """
    found = _complete(folder)
    damage = ""
    for path in reversed(found):
        try:
            verify_manifest(path, contents=True)
        except InkstoneError as error:
            damage = str(error)
            continue
        weights = load_file(path / "model.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        _restore_moments(model, optimizer, load_file(path / "optimizer.safetensors"))
        told = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if "mixture" in told:  # its name until 2026-11
            told["source"] = told.pop("mixture")
        return TrainState(**told)
    if damage:
        raise InkstoneError(f"no usable checkpoint in {folder}: {damage}")
    return None


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; remains of killed saves are cleared."""
    if not folder.is_dir():
        return []
    for draft in folder.glob(".step-*.draft"):
        settle(folder / draft.name.removeprefix(".").removesuffix(".draft"))
    return sorted(path for path in folder.glob("step-*") if (path / "manifest.json").is_file())


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}|{key}"] = value.detach().cpu().contiguous()
    return tensors


def _restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for joined, value in tensors.items():
        name, key = joined.split("|")
        optimizer.state[parameters[name]][key] = value
