"""A tokenizer that knows a few conversations and a tiny base model to tune."""

from pathlib import Path

import pytest

from inkstone.model import ModelSettings, save_model
from inkstone.tokenizer import Tokenizer, TokenizerSettings
from inkstone.tokenizer.bpe.train import train
from inkstone.train import new_model

_TEXT = "system\nuser\nassistant\ntool\n你好，世界！Hello, what is 12 + 7?\n明月照我还。The answer is 19.\n"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    trained, _ = train(TokenizerSettings(vocab_size=340), [([_TEXT] * 3, 1.0)])
    return trained


@pytest.fixture(scope="session")
def base_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    shape = ModelSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=96)
    model = new_model(shape, tokenizer.vocab_size, seed=1)
    save_model(model, directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(directory)
    return directory
