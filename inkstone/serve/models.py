"""Which models a server has, and the ones that are open: on demand, within a memory budget, least used ones closed.

    library = Library(find_models([Path("runs")]), settings)
    loaded = await library.get("primer/sft")

An adapter (`adapters.py`) is a model too, with an engine of its own around the weights of its base: those are there
once, and count once. A base stays open while an adapter of it is.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inkstone.chat import choose_template
from inkstone.errors import InputError
from inkstone.generate import Engine, SamplingSettings, read_sampling
from inkstone.model import Opened, open_directory
from inkstone.model.files.offload import Offload
from inkstone.model.opened import adapted, states_template, with_draft
from inkstone.model.packed.pack import Kind
from inkstone.serve.adapters import Adapter
from inkstone.serve.runner import Runner, cache_tokens

_GIB = 2**30


@dataclass(frozen=True)
class ServeSettings:
    """How much of the machine the server may use."""

    rows: int = 32
    """Requests that are decoded together."""
    waiting: int = 256
    """Requests that may wait beside them; more are told to come back."""
    cache_gib: float = 1.0
    """Keys and values of each model."""
    memory_gib: float | None = None
    """Weights of all open models; None: as many as are asked for."""
    dtype: str | None = None
    device: str = "cpu"
    quantize: Kind | None = None
    """How weights are packed as they are read."""
    lookup: int = 0
    """Tokens guessed at a time."""
    draft: Path | None = None
    """A smaller model that guesses them."""
    offload: Offload | None = None
    """What stays in the mapped file or beside a GPU."""


@dataclass
class Loaded:
    """An open model with its engine. `sampling` is what generation_config.json says."""

    name: str
    directory: Path
    opened: Opened
    runner: Runner
    sampling: SamplingSettings
    gib: float
    used: float = field(default_factory=time.monotonic)


class Library:
    """The models by name."""

    def __init__(
        self, directories: dict[str, Path], settings: ServeSettings, adapters: Mapping[str, Adapter] | None = None
    ) -> None:
        self.directories, self.settings, self.adapters = directories, settings, adapters or {}
        self.open: dict[str, Loaded] = {}
        self._talks: dict[str, bool] = {}
        self._lock = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """Models, then adapters whose base is here."""
        return [*self.directories, *(name for name, one in self.adapters.items() if one.base in self.directories)]

    def place(self, name: str) -> Path:
        """The files of a model or an adapter."""
        return self.adapters[name].directory if name in self.adapters else self.directories[name]

    def talks(self, name: str) -> bool:
        """Whether the model has a chat template; told from its files, once."""
        if name not in self._talks:
            adapter = self.adapters.get(name)
            inherits = adapter is not None and not states_template(adapter.directory)
            try:
                choose_template(self.place(adapter.base if adapter and inherits else name), None)
                self._talks[name] = True
            except InputError:
                self._talks[name] = False
        return self._talks[name]

    async def get(self, name: str) -> Loaded:
        """The model, opened if need be. Raises KeyError for a name that is not there, InputError where it cannot be."""
        async with self._lock:
            adapter = self.adapters.get(name)
            base = await self._opened(adapter.base, None) if adapter else None
            return await self._opened(name, base)

    async def _opened(self, name: str, base: Loaded | None) -> Loaded:
        if name not in self.open:
            await self._make_room(name, _weights_gib(self.place(name)), base)
            self.open[name] = await asyncio.to_thread(self._load, name, base)
        self.open[name].used = time.monotonic()
        return self.open[name]

    def _load(self, name: str, base: Loaded | None) -> Loaded:
        import torch

        settings = self.settings
        dtype, directory = getattr(torch, settings.dtype) if settings.dtype else None, self.place(name)
        if base is None:
            where, kind = (settings.device, settings.offload), settings.quantize
            opened = open_directory(directory, dtype, where[0], quantize=kind, prepack=True, offload=where[1])
            opened = with_draft(opened, settings.draft)
            sampling = read_sampling(directory, SamplingSettings(max_new_tokens=1024))
        else:
            opened, sampling = adapted(base.opened, directory), base.sampling
        model = opened.model
        tokens = cache_tokens(model, settings.rows, settings.cache_gib * _GIB)
        draft, lookup = opened.draft, settings.lookup
        runner = Runner(
            lambda: Engine(model, tokens, settings.rows, lookup=lookup, draft=draft), settings.rows + settings.waiting
        )
        return Loaded(name, directory, opened, runner, sampling, _weights_gib(directory))

    async def _make_room(self, name: str, needed: float, base: Loaded | None) -> None:
        """Close idle models, least recently used first, until the new one fits the budget."""
        budget = self.settings.memory_gib
        if budget is None:
            return
        if needed > budget:
            raise InputError(f"{name} has {needed:.1f} GiB of weights, more than --memory-gib {budget:g}")
        while sum(one.gib for one in self.open.values()) + needed > budget:
            bases = {self.adapters[other].base for other in self.open if other in self.adapters}
            bases |= {base.name} if base else set()
            idle = [one for one in self.open.values() if not one.runner.pending and one.name not in bases]
            if not idle:
                raise InputError(f"no room for {name}: the open models are in use; try again, or raise --memory-gib")
            oldest = min(idle, key=lambda one: one.used)
            del self.open[oldest.name]
            await asyncio.to_thread(oldest.runner.close)

    def close(self) -> None:
        """End every engine."""
        for loaded in self.open.values():
            loaded.runner.close()


def find_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Name to directory: of model directories and .gguf files, and of every model in folders such as runs/.

    Raises InputError naming every path that holds none.
    """
    problems, found = [], []
    for path in paths:
        inside = [path] if _is_model(path) else _inside(path)
        found += inside
        if not inside:
            problems.append(
                f"{path} is no model directory and holds none" if path.is_dir() else f"{path} does not exist"
            )
    if problems:
        raise InputError(problems)
    names = [path.name for path in found]
    return {
        path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}": path.resolve()
        for path in found
    }


def _inside(folder: Path, depth: int = 3) -> list[Path]:
    """Model directories in a folder, hidden ones left out."""
    if not folder.is_dir() or not depth:
        return []
    found = []
    for child in sorted(folder.iterdir()):
        if not child.name.startswith("."):
            found += [child] if _is_model(child) else _inside(child, depth - 1)
    return found


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path.suffix == ".gguf" and path.is_file())


def _weights_gib(directory: Path) -> float:
    files = [directory] if directory.is_file() else [*directory.glob("*.safetensors"), *directory.glob("*.bin")]
    return sum(file.stat().st_size for file in files) / _GIB
