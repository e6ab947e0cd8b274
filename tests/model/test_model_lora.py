"""Adapters: PEFT computes our logits from our directories and we its; off is the base; merged is the adapter."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import inkstone
from inkstone.errors import InputError
from inkstone.model import Decoder, ModelSettings, load_model, save_model
from inkstone.model.decoder.lora import LoraShape, adapter_off, attach_lora, lora_modules, merge_lora
from inkstone.model.files.adapter import beside, load_adapter, save_adapter
from inkstone.model.packed.pack import prepack_model
from inkstone.train import new_model

TOKENS = torch.arange(24).view(2, 12) * 3 % 61
KINDS = {
    "plain": LoraShape(4, 8),
    "rslora on some": LoraShape(4, 8, ("q_proj", "v_proj"), rslora=True),
    "dora": LoraShape(2, 4, dora=True),
    "with embeddings": LoraShape(2, 4, also=("embed_tokens", "lm_head")),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    shape = ModelSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64)
    model = new_model(shape.model_copy(update={"tie_embeddings": False}), 61, 1)
    save_model(model, directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    return directory


def with_tied_head(directory: Path) -> Path:
    shape = ModelSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64)
    model = new_model(shape.model_copy(update={"tie_embeddings": True}), 61, 1)
    save_model(model, directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    return directory


def adapted(base: Path, shape: LoraShape) -> Decoder:
    """The base with an adapter that does something."""
    model = load_model(base, torch.float32)
    attach_lora(model, shape, torch.Generator().manual_seed(1))
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.05)
    return model.eval()


@torch.no_grad()
def logits(model: Decoder) -> torch.Tensor:
    return model(TOKENS)


@pytest.mark.parametrize("kind", [*KINDS, "over a tied head"])
def test_peft_opens_our_adapter_and_computes_the_same_logits(kind: str, base: Path, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = with_tied_head(tmp_path / "tied") if kind not in KINDS else base
    model = adapted(base, KINDS.get(kind, LoraShape(2, 4, also=("embed_tokens",))))
    save_adapter(model, tmp_path, str(base))
    oracle = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    oracle = peft.PeftModel.from_pretrained(oracle, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(model), oracle(TOKENS).logits, atol=1e-5, rtol=1e-5)
    again = load_model(base, torch.float32)
    load_adapter(again, tmp_path)
    torch.testing.assert_close(logits(again.eval()), logits(model), atol=1e-5, rtol=1e-5)


def made_by_peft(base: Path, directory: Path, **options: object) -> torch.Tensor:
    """An adapter of PEFT that does something, and the logits with it."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    oracle = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for name, weight in oracle.named_parameters():
            if "modules_to_save" in name:
                weight.add_(torch.randn(weight.shape) * 0.05)
        oracle.eval().save_pretrained(directory)
        return oracle(TOKENS).logits


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_we_open_pefts_adapter_and_compute_the_same_logits(
    tied: bool, options: dict[str, object], base: Path, tmp_path: Path
) -> None:
    base = with_tied_head(tmp_path / "tied") if tied else base
    wanted = made_by_peft(base, tmp_path, **options)
    if "use_dora" not in options:  # as PEFT wrote them until 2023
        torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
        (tmp_path / "adapter_model.safetensors").unlink()
    model = load_model(base, torch.float32)
    load_adapter(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits(model.eval()), wanted, atol=1e-5, rtol=1e-5)
    merge_lora(model)
    save_model(model, tmp_path / "merged", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "rslora on some", "dora"])
def test_switched_off_it_is_the_base_and_merged_it_is_the_adapter(kind: str, base: Path) -> None:
    model = adapted(base, KINDS[kind])
    with adapter_off(model):
        assert torch.equal(logits(model), logits(load_model(base, torch.float32)))
    before = logits(model)
    assert not torch.allclose(before, logits(load_model(base, torch.float32)), atol=1e-3)
    merge_lora(model)
    assert not lora_modules(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in load_model(base).named_parameters()}


def test_a_fresh_adapter_changes_nothing_and_only_it_trains(base: Path) -> None:
    model = load_model(base, torch.float32)
    names = attach_lora(model, KINDS["plain"], torch.Generator().manual_seed(1))
    assert len(names) == 14
    assert torch.equal(logits(model), logits(load_model(base, torch.float32)))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_opened_with_an_adapter_a_model_answers_as_it(base: Path, tmp_path: Path) -> None:
    model = adapted(base, KINDS["plain"])
    save_adapter(model, tmp_path, str(base))
    with pytest.raises(InputError):  # no tokenizer: the directory of this test is weights alone
        inkstone.load(base, adapter=tmp_path)
    again = load_model(base, torch.float32)
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again.eval()), logits(model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3' is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"r": 0}, "r = 0 is no rank"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4' is not supported"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    change: dict[str, object], said: str, base: Path, tmp_path: Path
) -> None:
    save_adapter(adapted(base, KINDS["plain"]), tmp_path, str(base))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said):
        load_adapter(load_model(base), tmp_path)


def test_an_adapter_for_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(adapted(base, KINDS["plain"]), tmp_path, str(base))
    other = new_model(ModelSettings(hidden_size=64, num_layers=1, num_heads=4, max_positions=64), 61, 1)
    with pytest.raises(InputError, match="the adapter is for another base"):
        load_adapter(other, tmp_path)
    with pytest.raises(InputError, match=r"is no adapter: it has no adapter_config\.json"):
        load_adapter(other, base)


def test_a_target_that_no_block_has_is_refused(base: Path) -> None:
    with pytest.raises(InputError, match="lora targets c_attn match nothing: this model has q_proj"):
        attach_lora(load_model(base), LoraShape(2, 4, ("c_attn",)), torch.Generator())


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_beside_a_prepacked_base_computes_what_it_does_beside_a_plain_one(
    kind: str, base: Path, tmp_path: Path
) -> None:
    save_adapter(adapted(base, KINDS[kind]), tmp_path, str(base))
    plain, prepacked = (load_model(base, torch.bfloat16) for _ in range(2))
    prepack_model(prepacked)
    with torch.inference_mode():
        ours, theirs = (beside(model, tmp_path)(TOKENS) for model in (prepacked, plain))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.05)
