"""Merges against their formulas, and what cannot be merged."""

import math
from pathlib import Path

import pytest
import torch

from inkstone.errors import InputError
from inkstone.model import ModelSettings, load_model, save_model
from inkstone.model.decoder.lora import LoraShape, attach_lora
from inkstone.model.files.adapter import save_adapter
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.train import new_model
from inkstone.tune.merge import Merge, join, merge_adapter, merge_models, parse_weights

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0])
ONE = torch.tensor([2.0, 1.1, 0.0, 1.0])
TWO = torch.tensor([4.0, 0.8, 1.5, 1.0])


def test_linear_is_the_weighted_mean() -> None:
    assert torch.allclose(join([ONE, TWO], None, Merge("linear", (1, 3))), (ONE + 3 * TWO) / 4)


def test_slerp_keeps_to_the_arc_and_its_ends() -> None:
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    middle = join([one, two], None, Merge("slerp", (1, 1)))
    assert torch.allclose(middle, torch.tensor([math.sqrt(0.5)] * 2))
    assert torch.allclose(join([one, two], None, Merge("slerp", (1, 0))), one)
    assert torch.allclose(join([ONE, ONE], None, Merge("slerp", (1, 1))), ONE)


def test_ties_trims_elects_a_sign_and_averages_those_that_agree() -> None:
    """Differences 1, .1, -1, 0 and 3, -.2, .5, 0; half of each is kept: 1, -1 and 3, .5; the third votes minus."""
    merged = join([ONE, TWO], BASE, Merge("ties", (1, 1), density=0.5))
    assert torch.allclose(merged, BASE + torch.tensor([2.0, 0.0, -1.0, 0.0]))


def test_dare_drops_and_scales_so_that_the_mean_stays() -> None:
    base, one = torch.zeros(20_000), torch.ones(20_000)
    merged = join([one], base, Merge("dare", (1,), density=0.25), "a")
    assert set(merged.unique().tolist()) == {0.0, 4.0}
    assert float(merged.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(merged, join([one], base, Merge("dare", (1,), density=0.25), "a"))


@pytest.fixture(scope="module")
def others(base_dir: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two more models of the base's shape."""
    found = []
    for seed in (2, 3):
        directory = tmp_path_factory.mktemp("model")
        shape = ModelSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=96)
        save_model(new_model(shape, tokenizer.vocab_size, seed), directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
        tokenizer.save(directory)
        found.append(directory)
    return found


def test_merged_models_open_and_have_the_joined_weights(others: list[Path], base_dir: Path, tmp_path: Path) -> None:
    for how, base in ((Merge("linear", (1, 1)), None), (Merge("ties", (1, 2), 0.3), base_dir)):
        output = tmp_path / how.method
        merge_models(others, output, how, base, Silent())
        merged = load_model(output).state_dict()
        one, two, origin = (load_model(path).state_dict() for path in (*others, base_dir))
        for name in merged:
            expected = join([one[name], two[name]], origin[name] if base else None, how, name)
            torch.testing.assert_close(merged[name], expected)
        assert Tokenizer.load(output).fingerprint == Tokenizer.load(base_dir).fingerprint


def test_models_that_do_not_fit_together_are_refused(others: list[Path], tokenizer: Tokenizer, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    shape = ModelSettings(hidden_size=64, num_layers=2, num_heads=4, max_positions=96)
    save_model(new_model(shape, tokenizer.vocab_size, 1), wide, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(wide)
    with pytest.raises(InputError, match="has another shape than"):
        merge_models([others[0], wide], tmp_path / "out", Merge("linear", (1, 1)), None, Silent())
    with pytest.raises(InputError, match="give the model they come from with --base"):
        merge_models(others, tmp_path / "out", Merge("ties", (1, 1)), None, Silent())
    with pytest.raises(InputError, match="slerp joins two models, not 3"):
        merge_models([*others, wide], tmp_path / "out", Merge("slerp", (1, 1, 1)), None, Silent())


@pytest.mark.parametrize("text", ["1", "1,x", "0,0", "-1,2", "nan,1"])
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--weights"):
        parse_weights(text, 2)


def test_an_adapter_merged_is_the_adapter(base_dir: Path, tmp_path: Path) -> None:
    model = load_model(base_dir, torch.float32)
    attach_lora(model, LoraShape(4, 8), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    save_adapter(model, tmp_path / "adapter", str(base_dir))
    told = merge_adapter(base_dir, tmp_path / "adapter", tmp_path / "merged")
    assert told["largest_difference"] < 1e-4 and told["same_best"] == 1
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "merged")(tokens), model.eval()(tokens), atol=1e-5, rtol=1e-4)
