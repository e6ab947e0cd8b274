"""`--adapter NAME=DIR`: which adapters there are, and on which served model each is; checked before the server starts.

    adapters = find_adapters(["law=runs/law/sft/adapter"], find_models([Path("base")]))

Files are tried on the base's shape without its weights, so what does not fit is refused in a moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.model.files.adapter import CONFIG, beside, is_adapter, named_base
from inkstone.model.files.directory import read_config


@dataclass(frozen=True)
class Adapter:
    """A PEFT directory and the name of the model it is for."""

    directory: Path
    base: str


def find_adapters(given: Sequence[str], models: Mapping[str, Path]) -> dict[str, Adapter]:
    """Name to adapter. Raises InputError naming every one that is malformed, not there or for no served model."""
    found: dict[str, Adapter] = {}
    problems: list[str] = []
    for one in given:
        name, _, written = one.partition("=")
        directory = Path(written)
        if not name or not written:
            problems.append(f"--adapter {one}: write NAME=DIR")
        elif name in found or name in models:
            problems.append(f"--adapter {one}: {name} is already {'an adapter' if name in found else 'a model'}'s name")
        elif not is_adapter(directory):
            missing = f"has no {CONFIG}" if directory.is_dir() else "does not exist"
            problems.append(f"--adapter {one}: {directory} {missing}")
        else:
            try:
                found[name] = Adapter(directory.resolve(), _base_of(directory, models))
            except InputError as error:
                problems.append(f"--adapter {one}: {str(error).splitlines()[0]}")
    if problems:
        raise InputError(problems)
    return found


def _base_of(directory: Path, models: Mapping[str, Path]) -> str:
    """The one model that is served, or the one of several that the adapter's files name. Raises InputError."""
    named = named_base(directory)
    tail = Path(named).name
    same = [name for name, place in models.items() if place == Path(named).resolve()]
    base = (
        next(iter(models)) if len(models) == 1 else next(iter([*same, *(one for one in models if one == tail)]), None)
    )
    if base is None:
        raise InputError(f'its base is "{named}", which is not served: name that directory too')
    with torch.device("meta"):
        shape = Decoder(read_config(models[base]))
    beside(shape, directory)
    return base
