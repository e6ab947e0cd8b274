"""Every benchmark by its name, and the folder below --data where its files lie."""

from pathlib import Path

from inkstone.errors import InputError
from inkstone.evaluate.tasks.english import ENGLISH
from inkstone.evaluate.tasks.exams import EXAMS
from inkstone.evaluate.tasks.hub import hub_folder, on_hub
from inkstone.evaluate.tasks.item import Benchmark, Item, Loaded
from inkstone.evaluate.tasks.judged import JUDGED
from inkstone.evaluate.tasks.needle import NEEDLE
from inkstone.evaluate.tasks.written import WRITTEN
from inkstone.storage.damage import reading

BENCHMARKS: dict[str, Benchmark] = EXAMS | ENGLISH | WRITTEN | JUDGED | {"needle": NEEDLE}


def load(name: str, data: Path, split: str = "") -> Loaded:
    """The items of a benchmark, from its folder in `data` or from the hub. Raises InputError where it is missing."""
    benchmark = BENCHMARKS[name]
    if split and split not in benchmark.splits:
        raise InputError(f"{name} has no split {split!r}: it has {', '.join(benchmark.splits)}")
    names = benchmark.folders or (name,)
    folder = next((data / one for one in names if (data / one).is_dir()), None)
    if on_hub(data) and not benchmark.made:
        folder = hub_folder(name)
    if folder is None and not benchmark.made:
        raise InputError(f"{data} has no folder {' or '.join(names)} for {name}: put the benchmark's files there")
    with reading(folder or data, f"{name} as published"):
        return benchmark.read(folder or data, split or benchmark.splits[0])


__all__ = ["BENCHMARKS", "Benchmark", "Item", "Loaded", "load", "on_hub"]
