"""Inkstone (砚): raw Chinese and English text in, an evaluated chat model out.

    opened = inkstone.load("Baichuan-13B-Chat")     # any model directory: opened.model, .tokenizer, .template

Each folder is a room with one job and a directory on disk as its border; the README's file tree is the map.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from inkstone.model.opened import Opened

__version__ = "0.1.0"


def load(
    source: "str | Path",
    dtype: "torch.dtype | None" = None,
    device: "torch.device | str" = "cpu",
    template: str | None = None,
    adapter: "str | Path | None" = None,
) -> "Opened":
    """Open a model directory, or a hub's model by name, as `inkstone.model.open_directory`; with a PEFT adapter."""
    from inkstone.model.opened import open_directory

    return open_directory(source, dtype, device, template, adapter=Path(adapter) if adapter else None)
