"""Where a model comes from: a directory on this machine, or a name on a hub, which is downloaded once.

    directory = resolve_source("runs/primer/sft")
    directory = resolve_source("mistralai/Mistral-7B-v0.1")      # needs the extra `hub`
    file = hub_file("cais/mmlu", "c30699e8...", "all/test-00000-of-00001.parquet")     # of a data set

Only data is fetched: no code, and legacy weights only where a repository has no safetensors.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    instead = "connect, or copy the model's directory"
    with _hub(f"{source} is not a directory here", f"{source} is neither a directory here nor a public model", instead):
        from huggingface_hub import snapshot_download

        found = Path(snapshot_download(str(source), allow_patterns=_DATA, ignore_patterns=_NOT_READ))
        if not any(found.glob("*.safetensors")):
            wanted = [*_DATA, "pytorch_model*.bin"]
            found = Path(snapshot_download(str(source), allow_patterns=wanted, ignore_patterns=_NOT_READ))
        return found


def hub_file(repository: str, revision: str, name: str) -> Path:
    """One file of a data set at a commit, from the hub or from an earlier download."""
    here = f"{name} of {repository} has not been downloaded"
    with _hub(here, f"{repository} is no public data set", "connect, or put the files into a folder for --data"):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision))


@contextmanager
def _hub(here: str, nowhere: str, instead: str) -> Iterator[None]:
    """What goes wrong between us and the hub, as a sentence."""
    try:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise InputError(f"{here}; to download it from a hub, install the extra: pip install inkstone[hub]") from error
    try:
        yield
    except RepositoryNotFoundError as error:
        raise InputError(f"{nowhere} on the hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise InkstoneError(f"{here}, and the hub cannot be reached: {instead}") from error
