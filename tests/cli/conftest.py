"""Small data made with the commands themselves, and two tiny models with random weights."""

import sys
from pathlib import Path

import pytest

# The commands are called as tests/pipeline calls them.
sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from tiny_run import inkstone

from inkstone.chat import CHATML, save_template
from inkstone.model import ModelSettings, save_model
from inkstone.tokenizer import Tokenizer
from inkstone.train import new_model


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """primer/, runs/small/corpus/, tokenizer/ and tokens/, each written by its command."""
    folder = tmp_path_factory.mktemp("data")
    recipe = folder / "small.toml"
    recipe.write_text(
        f'name = "small"\nruns_dir = "{folder}/runs"\n[corpus]\ninputs = ["{folder}/primer/raw/web.jsonl"]\n'
    )
    corpus, tokenizer = folder / "runs" / "small" / "corpus", folder / "tokenizer"
    for arguments in (
        ["primer", "-o", folder / "primer", "--size-mb", "0.3"],
        ["curate", recipe],
        ["tokenizer", "train", corpus, "-o", tokenizer, "--vocab-size", "1200"],
        ["tokenizer", "encode", corpus, tokenizer, "-o", folder / "tokens"],
    ):
        ended = inkstone(*arguments)
        assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="session")
def models(data: Path) -> Path:
    """base/ and chat/: the same random model, without and with a chat template."""
    tokenizer = Tokenizer.load(data / "tokenizer")
    shape = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, max_positions=96)
    for name in ("base", "chat"):
        ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
        model = new_model(shape, tokenizer.vocab_size, seed=3)
        # Large weights, so that every token of the context changes what the model says.
        model.load_state_dict({name: 20 * weight for name, weight in model.state_dict().items()})
        save_model(model, data / "models" / name, **ids, stop_ids=[tokenizer.eos_id])
        tokenizer.save(data / "models" / name)
    save_template(CHATML, data / "models" / "chat")
    return data / "models"
