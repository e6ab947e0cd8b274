"""Where a model comes from: a directory on this machine, or a name on a hub, which is downloaded once.

    directory = resolve_source("runs/primer/sft")
    directory = resolve_source("mistralai/Mistral-7B-v0.1")      # needs the extra `hub`

Only data is fetched: no code, and legacy weights only where a repository has no safetensors.
"""

import re
from pathlib import Path

from inkstone.errors import InkstoneError, InputError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA = ["*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja", "LICENSE*", "NOTICE*"]
_NOT_READ = ["consolidated*", "original/*", "*/*"]


def resolve_source(source: str | Path) -> Path:
    """The directory or GGUF file of `source`. Raises InputError when it is neither here nor a model on the hub."""
    path = Path(source)
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if path.exists():
        raise InputError(
            f"{source} is a file: give the model's directory, a .gguf file, or a hub's name such as org/model"
        )
    if not _HUB_NAME.fullmatch(str(source)):
        raise InputError(f"{source} does not exist: give a model directory, or a hub's name such as org/model")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise InputError(
            f"{source} does not exist here; to download it from a hub, install the extra: pip install inkstone[hub]"
        ) from error
    try:
        found = Path(snapshot_download(str(source), allow_patterns=_DATA, ignore_patterns=_NOT_READ))
        if not any(found.glob("*.safetensors")):
            wanted = [*_DATA, "pytorch_model*.bin"]
            found = Path(snapshot_download(str(source), allow_patterns=wanted, ignore_patterns=_NOT_READ))
        return found
    except RepositoryNotFoundError as error:
        raise InputError(f"{source} is neither a directory here nor a public model on the hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise InkstoneError(
            f"{source} is not a directory here, and the hub cannot be reached: connect, or copy the model's directory"
        ) from error
