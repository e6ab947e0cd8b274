"""Sources: a directory here, or a hub's name; nothing is downloaded in these tests, and no code would ever be."""

import shutil
from pathlib import Path

import pytest
from checkpoint_samples import sample

from inkstone.errors import InkstoneError, InputError
from inkstone.model.files.hub import resolve_source

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


def test_a_directory_is_itself_even_where_a_hub_could_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/model").mkdir(parents=True)
    assert resolve_source("org/model") == Path("org/model")


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/no/such/model", "../x/y"])
def test_what_is_neither_a_directory_nor_a_hubs_name_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="does not exist: give a model directory, or a hub's name"):
        resolve_source(source)


def test_a_file_is_not_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org/model").write_text("x")
    with pytest.raises(InputError, match="org/model is a file"):
        resolve_source("org/model")


def test_an_unreachable_hub_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InkstoneError, match="the hub cannot be reached: connect, or copy the model's directory"):
        resolve_source("org/never-downloaded")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the hub's cache layout, as an earlier download left it; the network is off."""
    cache, commit = tmp_path / "cache", "0" * 40
    repository = cache / "models--org--model"
    sample(repository / "snapshots" / commit, "llama")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return repository / "snapshots" / commit


def test_what_was_downloaded_before_opens_offline(hub: Path) -> None:
    assert resolve_source("org/model") == hub


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_only_data_is_fetched_and_legacy_weights_only_where_there_are_no_others(
    has_safetensors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, local = tmp_path / "published", tmp_path / "local"
    data = {"config.json", "tokenizer.model", "LICENSE", *(["model.safetensors"] if has_safetensors else [])}
    others = {
        "modeling_x.py",
        "consolidated.00.safetensors",
        "original/params.json",
        "tf_model.h5",
        "pytorch_model.bin",
    }
    for name in data | others:
        (published / name).parent.mkdir(parents=True, exist_ok=True)
        (published / name).write_text(name)

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        """What the library does, from a directory: its own filter decides."""
        files = [path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()]
        rules = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
        for file in huggingface_hub.utils.filter_repo_objects(files, **rules):
            (local / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(published / file, local / file)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    fetched = {path.relative_to(local).as_posix() for path in resolve_source("org/model").rglob("*") if path.is_file()}
    assert fetched == data | (set() if has_safetensors else {"pytorch_model.bin"})
