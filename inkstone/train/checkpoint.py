"""Training checkpoints: what trains, its moments and the loop's state, enough to continue to the same last bit.

    saves = Saves(folder, mesh, beside=True)
    saves.save(state, model, optimizer)                       # folder/step-00000100/, atomic; the newest two are kept
    state = load_checkpoint(folder, model, optimizer, mesh)   # the newest whole one, or None

With `beside` the training waits for a copy in the CPU's memory only, and a thread writes it. Every rank writes the
parts of tensors that it holds, through PyTorch's distributed checkpoint in its safetensors form, which writes no
pickle; what is no tensor is JSON. Any number of ranks reads what any other number wrote. The directory appears when all
ranks have written, its manifest last: each rank hashes its own file.
"""

import json
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from inkstone.errors import InkstoneError
from inkstone.storage import atomic_directory, file_sha256, settle, verify_manifest, write_manifest
from inkstone.train.mesh import Mesh, aside, wait_for_all
from inkstone.train.source import SourceState

_KEEP = 2


@dataclass
class TrainState:
    """What the loop knows besides weights and moments. `step` optimizer steps are done.

    `skipped_rows` are ranges [first, end) of the endless order that are to be passed over; `figures` are the last
    step's sums, which the objective is told; `norms` are what the guard compares with; `source` is what the source
    wants to find again.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_in_a_row: int = 0
    skipped: int = 0
    rollbacks: int = 0
    loss: float | None = None
    heldout_loss: float | None = None
    arithmetic: dict[str, str | bool] = field(default_factory=dict)
    rows_drawn: int | None = None
    skipped_rows: list[list[int]] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    source: SourceState = field(default_factory=dict)

    def rows_behind(self, rows_per_step: int) -> int:
        """Rows of the endless order that are trained on or passed over; older checkpoints did not say."""
        return self.step * rows_per_step if self.rows_drawn is None else self.rows_drawn


class Saves:
    """The checkpoints of one run, written one after the other; every rank makes one and calls it in the same steps."""

    def __init__(self, folder: Path, mesh: Mesh, beside: bool) -> None:
        self.folder, self.mesh, self.group = folder, mesh, aside(mesh)
        self.writer = ThreadPoolExecutor(1) if beside else None
        self.pending: Future[None] | None = None

    def save(self, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write `folder/step-N` and drop all but the newest two. Raises what befell the save before."""
        self.wait()
        tensors, told = _tensors(model, optimizer), json.dumps(asdict(state))
        if self.writer is None:
            return self._write(state.step, told, tensors)
        copies = DefaultStager(StagingOptions(False, False, False, False)).stage(tensors)
        assert isinstance(copies, dict)  # a future only where staging is asked to run beside, too
        self.pending = self.writer.submit(self._write, state.step, told, copies)

    def wait(self) -> None:
        """Return when the last save is on disk. Raises what befell it."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def _write(self, step: int, told: str, tensors: dict[str, Tensor]) -> None:
        place = self.folder / f"step-{step:08d}"
        if not self.mesh.first:
            wait_for_all(self.mesh, self.group)  # until the draft is there
            self._write_part(place.with_name(f".{place.name}.draft"), tensors)
            wait_for_all(self.mesh, self.group)  # until it has its name
            return
        with atomic_directory(place) as draft:
            wait_for_all(self.mesh, self.group)
            self._write_part(draft, tensors)
            (draft / "state.json").write_text(told, encoding="utf-8")
            notes = sorted(draft.glob("*.sha256"))
            digests = {note.stem: note.read_text(encoding="utf-8") for note in notes}
            for note in notes:
                note.unlink()
            write_manifest(draft, {"step": step}, digests)
        kept = _complete(self.folder)[-_KEEP:]
        for old in self.folder.glob("step-*"):
            if old not in kept:
                shutil.rmtree(old)
        wait_for_all(self.mesh, self.group)

    def _write_part(self, draft: Path, tensors: dict[str, Tensor]) -> None:
        """This rank's file, and beside it a note with its checksum for the first rank."""
        writer = HuggingFaceStorageWriter(str(draft), save_distributed=True)
        with _alone_is_fine():
            dcp.save(tensors, storage_writer=writer, process_group=self.group, no_dist=self.mesh.size == 1)
        for mine in draft.glob(f"shard-{self.mesh.rank + 1:05d}-*.safetensors"):
            (draft / f"{mine.name}.sha256").write_text(file_sha256(mine), encoding="utf-8")
        wait_for_all(self.mesh, self.group)


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """PyTorch warns that there is one process only; that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, mesh: Mesh
) -> tuple[TrainState | None, str]:
    """Load the newest checkpoint that is whole into `model` and `optimizer`: its state, and what newer ones lack.

    No state when there is no checkpoint. Raises InkstoneError when every checkpoint there is damaged: silently starting
    over would lose the run.
    """
    if mesh.first:
        _complete(folder)
    wait_for_all(mesh)
    damage: list[str] = []
    for path in reversed(_complete(folder, mend=False)):
        try:
            verify_manifest(path, contents=True)
        except InkstoneError as error:
            damage.append(str(error))
            continue
        reader = HuggingFaceStorageReader(str(path))
        _make_moments(reader, model, optimizer)
        with _alone_is_fine():
            dcp.load(_tensors(model, optimizer), storage_reader=reader, no_dist=mesh.size == 1)
        told = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if "mixture" in told:  # its name until 2026-11
            told["source"] = told.pop("mixture")
        return TrainState(**told), "; ".join(damage)
    if damage:
        raise InkstoneError(f"no usable checkpoint in {folder}: {'; '.join(damage)}")
    return None, ""


def _complete(folder: Path, mend: bool = True) -> list[Path]:
    """Complete checkpoints, oldest first; with `mend`, remains of killed saves are cleared."""
    for draft in folder.glob(".step-*.draft") if mend else ():
        settle(folder / draft.name.removeprefix(".").removesuffix(".draft"))
    return sorted(path for path in folder.glob("step-*") if (path / "manifest.json").is_file())


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that trains by its name, and its moments as NAME|MOMENT."""
    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            tensors[name] = weight.detach()
            tensors |= {f"{name}|{key}": moment for key, moment in optimizer.state[weight].items()}
    return tensors


def _make_moments(reader: HuggingFaceStorageReader, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Empty moments for those that the checkpoint has: they are read in place, by the rank that holds their part."""
    weights = dict(model.named_parameters())
    for joined, stored in reader.read_metadata().state_dict_metadata.items():
        name, _, key = joined.partition("|")
        if key and name in weights and isinstance(stored, TensorStorageMetadata):
            like = weights[name].detach()
            dtype, size = stored.properties.dtype, stored.size
            moment = torch.zeros_like(like, dtype=dtype) if size == like.shape else torch.zeros(size, dtype=dtype)
            optimizer.state[weights[name]][key] = moment
