"""One uninterrupted run for all tests of the pipeline, and folders that start from a part of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import STAGES, inkstone, write_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was never disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    ended = inkstone("run", write_recipe(folder))
    assert ended.code == 0, ended.err
    return folder / "runs" / "tiny"


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Callable[[str], Path]:
    """begun("tokens") is a recipe whose run has all stages before tokens."""

    def make(stage: str) -> Path:
        for done in STAGES[: STAGES.index(stage)]:
            shutil.copytree(finished / done, tmp_path / "runs" / "tiny" / done)
        return write_recipe(tmp_path)

    return make
