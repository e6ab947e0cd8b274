"""A small bilingual tokenizer that knows the role names."""

from pathlib import Path

import pytest

from inkstone.tokenizer import Tokenizer, TokenizerSettings
from inkstone.tokenizer.bpe.train import train

_TEXT = (
    "system\nuser\nassistant\ntool\n你好，世界！Hello, what is 12 + 7?\n明月照我还。The answer is 19.\n\n- <|im_end|> "
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    trained, _ = train(TokenizerSettings(vocab_size=420), [([_TEXT] * 3, 1.0)])
    return trained


@pytest.fixture(scope="session")
def model_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer and the ChatML files, as a chat model has them."""
    from inkstone.chat import CHATML, save_template

    directory = tmp_path_factory.mktemp("chat-model")
    tokenizer.save(directory)
    save_template(CHATML, directory)
    return directory
