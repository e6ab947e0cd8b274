"""The pretrain stage from token shards on disk to a directory that transformers opens."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from train_samples import Notes, tiny_settings

from inkstone.errors import InkstoneError
from inkstone.model import ModelSettings, load_model
from inkstone.model.files.directory import read_stop_ids
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer, TokenizerSettings, TokensSettings, encode_corpus, train_tokenizer
from inkstone.train import PretrainSettings, new_model, pretrain

SHAPE = ModelSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64)
SETTINGS = PretrainSettings(
    **tiny_settings(max_steps=30, checkpoint_steps=10, log_steps=5, heldout_steps=15).model_dump()
)


def write_split(corpus: Path, split: str, texts: list[str]) -> None:
    (corpus / split).mkdir(parents=True, exist_ok=True)
    columns = {"id": [f"{split}-{n}" for n in range(len(texts))], "text": texts}
    same = {"source": ["s"] * len(texts), "lang": ["zh"] * len(texts)}
    pq.write_table(pa.table({**columns, **same}), corpus / split / "part-00000.parquet")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus/, tokenizer/ and tokens/ of a language with two sentences."""
    root = tmp_path_factory.mktemp("run")
    write_split(root / "corpus", "train", ["明月照我还。", "the river runs to the sea. "] * 60)
    write_split(root / "corpus", "heldout", ["明月照我还。the river runs"] * 4)
    for name in ("tokenizer", "tokens"):
        (root / name).mkdir()
    train_tokenizer(TokenizerSettings(vocab_size=320), root / "corpus", root / "tokenizer", Silent())
    encode_corpus(TokensSettings(), root / "corpus", root / "tokenizer", root / "tokens", Silent())
    return root


def stage(corpus: Path, root: Path, progress: Silent | None = None) -> dict[str, object]:
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True)
    places = corpus / "tokens", corpus / "tokenizer", root / "output", root / "scratch"
    return pretrain(SETTINGS, SHAPE, *places, progress or Silent())


def test_pretraining_writes_a_model_with_its_tokenizer_that_transformers_opens(corpus: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    result = stage(corpus, tmp_path)
    output = tmp_path / "output"
    tokenizer = Tokenizer.load(output)
    ids = [tokenizer.bos_id, *tokenizer.encode("明月照我")]
    oracle = transformers.AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = load_model(output)(torch.tensor([ids]))
        torch.testing.assert_close(logits, oracle(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)
    other_tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    assert other_tokenizer("明月照我", add_special_tokens=False)["input_ids"] == ids[1:]
    assert read_stop_ids(output) == {tokenizer.eos_id}
    assert result["parameters"] == sum(weight.numel() for weight in load_model(output).parameters())
    assert json.loads(json.dumps(result, allow_nan=False))["steps"] == 30


def test_pretraining_learns_and_says_so_in_its_metrics(corpus: Path, tmp_path: Path) -> None:
    stage(corpus, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "output" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    heldout = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    assert len(losses) == 6 and len(heldout) == 2
    assert losses[-1] < losses[0] / 2 and heldout[1] < heldout[0]
    assert all(row["tokens"] == row["step"] * 64 for row in rows if "tokens" in row)


def test_the_same_stage_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    for name in "ab":
        stage(corpus, tmp_path / name)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "a" / "output" / file).read_bytes() == (tmp_path / "b" / "output" / file).read_bytes()


def test_a_heldout_split_shorter_than_a_row_is_noted_not_fatal(corpus: Path, tmp_path: Path) -> None:
    write_split(tmp_path / "corpus", "train", ["明月照我还。"] * 60)
    write_split(tmp_path / "corpus", "heldout", ["明月"])
    (tmp_path / "tokens").mkdir()
    encode_corpus(TokensSettings(), tmp_path / "corpus", corpus / "tokenizer", tmp_path / "tokens", Silent())
    (tmp_path / "tokenizer").symlink_to(corpus / "tokenizer")
    notes = Notes()
    assert stage(tmp_path, tmp_path / "run", notes)["heldout_loss"] is None
    assert any("the held-out split is shorter than one row" in note for note in notes.notes)


def test_tokens_of_another_tokenizer_are_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    train_tokenizer(TokenizerSettings(vocab_size=304), corpus / "corpus", tmp_path / "tokenizer", Silent())
    (tmp_path / "tokens").symlink_to(corpus / "tokens")
    with pytest.raises(InkstoneError, match="encoded with another tokenizer"):
        stage(tmp_path, tmp_path / "run")


def test_fresh_weights_follow_the_seed_alone() -> None:
    one, same, other = (new_model(SHAPE, 100, seed) for seed in (1, 1, 2))
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs if a.dim() == 2)


def test_fresh_weights_have_the_promised_spread() -> None:
    model = new_model(ModelSettings(hidden_size=128, num_layers=8, num_heads=4), 500, seed=1)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == 1).all()
        else:
            expected = 0.02 / 4 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
