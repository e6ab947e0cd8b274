"""A small corpus on disk and a tokenizer trained on it."""

from pathlib import Path

import pytest
from tokenizer_samples import make_rows, write_split

from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer, TokenizerSettings, train_tokenizer


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = tmp_path_factory.mktemp("corpus")
    write_split(corpus, "train", make_rows(400, seed=1))
    write_split(corpus, "heldout", make_rows(30, seed=2))
    return corpus


@pytest.fixture(scope="session")
def tokenizer_dir(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerSettings(vocab_size=400), corpus_dir, output, Silent())
    return output


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)
