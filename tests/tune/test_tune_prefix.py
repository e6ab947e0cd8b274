"""P-tuning v2 as a stage: only the prefix learns, a stopped run ends alike, and every door opens what comes out."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_tune_stage import CHATS, StopsAfter, stage, tiny_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from tiny_run import inkstone

from inkstone.chat import Message
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, generate, score, stream_reply
from inkstone.model import Decoder, DecoderConfig, Opened, load_model, open_directory, save_model
from inkstone.model.decoder.lora import adapter_off
from inkstone.model.gguf import write_gguf
from inkstone.model.opened import adapted
from inkstone.model.packed.pack import packed_maps
from inkstone.progress import Silent
from inkstone.quantize import Quantization, quantize_model
from inkstone.tokenizer import Tokenizer
from inkstone.train.mesh import Mesh
from inkstone.train.parallelize import open_model
from inkstone.tune.merge import Merge, merge_adapter, merge_models

PREFIX = {
    "adapter": "prefix", "prefix": {"length": 8}, "max_steps": 60, "learning_rate": 0.3, "weight_decay": 0.0,
    "template": "auto",
}  # fmt: skip


def reply(opened: Opened, question: str) -> str:
    return "".join(stream_reply(opened, [Message("user", question)], SamplingSettings(max_new_tokens=20)))


@pytest.fixture(scope="module")
def base(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It gives the same answers, each to another question: what a few virtual tokens can turn round."""
    root, answers = tmp_path_factory.mktemp("base"), [answer for _, answer in CHATS]
    stage(root, base_dir, tiny_settings(), [[q, a] for (q, _), a in zip(CHATS, answers[1:] + answers[:1], strict=True)])
    return root / "output"


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    stage(root, base, tiny_settings(**PREFIX))
    return root / "output"


def test_text_has_the_positions_that_a_prefix_leaves(tuned: Path, base: Path) -> None:
    model = load_model(tuned)
    left = model.position_limit
    assert left == 88 == model.max_positions and load_model(base).position_limit == 96
    [answer] = generate(model, [[5] * (left - 1)], SamplingSettings(max_new_tokens=20), {1})
    assert len(answer) <= 1, "the last position is the answer's"
    with pytest.raises(InputError, match="has 88 tokens; the model takes 1 to 87"):
        generate(model, [[5] * left], SamplingSettings(max_new_tokens=1), {1})
    with pytest.raises(InputError, match="has 89 tokens, more than the model's 88 positions"):
        score(model, [([5] * left, [5])])


def test_a_prefix_learns_and_the_weights_stay_what_they_were(tuned: Path, base: Path) -> None:
    rows = [json.loads(row) for row in (tuned / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.4 * losses[0]
    one, other = load_model(tuned), load_model(base)
    assert all(torch.equal(weight, one.get_parameter(name)) for name, weight in other.named_parameters())
    assert json.loads((tuned / "prefix" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_every_door_opens_a_tuned_prefix_and_what_is_made_of_it(tuned: Path, base: Path, tmp_path: Path) -> None:
    question, opened = CHATS[0][0].content, open_directory(tuned, chat=True)
    answer = reply(opened, question)
    assert answer == CHATS[0][1].content != reply(open_directory(base, chat=True), question)
    assert answer == reply(open_directory(base, chat=True, adapter=tuned / "prefix"), question)
    under = open_directory(base)
    assert answer == reply(adapted(under, tuned / "prefix"), question) and under.model.model.prefix is None
    quantize_model(tuned, tmp_path / "int8", Quantization("rtn", bits=8, group_size=32))
    assert answer == reply(open_directory(tmp_path / "int8", chat=True), question)
    quantize_model(base, tmp_path / "packed", Quantization("rtn", group_size=32))
    stage(tmp_path / "on packed", tmp_path / "packed", tiny_settings(**{**PREFIX, "max_steps": 2}))
    kept, whole = (tmp_path / name / "model.safetensors" for name in ("packed", "on packed/output"))
    assert load_file(kept).keys() == load_file(whole).keys(), "a packed base is written as it is stored"
    assert packed_maps(open_directory(whole.parent, chat=True).model) == 14
    # A later stage trains beside the prefix, or on it as on all weights, and carries it along.
    for name, adapter in (("lora", {"adapter": "lora"}), ("whole", {})):
        stage(tmp_path / name, tuned, tiny_settings(**adapter, template="auto", max_steps=2, learning_rate=1e-5))
        assert answer == reply(open_directory(tmp_path / name / "output", chat=True), question), name


def test_a_stopped_run_over_a_packed_base_ends_like_an_uninterrupted_one(base: Path, tmp_path: Path) -> None:
    settings = tiny_settings(**{**PREFIX, "prefix": {"length": 8, "quantize": "nf4"}}, recompute=True)
    settings = settings.model_copy(update={"max_steps": 12})
    stage(tmp_path / "whole", base, settings)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "stopped", base, settings, progress=StopsAfter(5))
    stage(tmp_path / "stopped", base, settings)
    one, other = (load_model(tmp_path / name / "output").state_dict() for name in ("whole", "stopped"))
    assert "model.prefix.numbers" in one and all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_prefix_cannot_do_is_said(tuned: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a prefix: keys and values before the text, which weights cannot say"):
        merge_adapter(base, tuned / "prefix", tmp_path / "merged")
    with pytest.raises(InputError, match="has a prefix, which cannot be joined"):
        merge_models([base, tuned], tmp_path / "joined", Merge("linear", (1, 1)), None, Silent())
    with pytest.raises(InputError, match=r"has a prefix, which llama.cpp does not know"):
        write_gguf(tuned, tmp_path / "model.gguf", "f16", Silent())
    with pytest.raises(InputError, match="has a prefix, which is not split"):
        open_model(tuned, Mesh(shard=2))
    with pytest.raises(InputError, match="the base has a prefix of its own"):
        stage(tmp_path / "second", tuned, tiny_settings(**PREFIX))
    with pytest.raises(InputError, match="exceeds the model's 96 positions, of which the prefix takes 40"):
        stage(tmp_path / "long", base, tiny_settings(**{**PREFIX, "prefix": {"length": 40}}))
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        tiny_settings(adapter="prefix", prefix={"length": 0})
    with pytest.raises(ValueError, match='lora has no part in adapter = "prefix": a stage trains one adapter'):
        tiny_settings(adapter="prefix", lora={"rank": 4})


def test_the_recipe_of_zhuzhi_runs_on_a_tiny_chatglm2_and_its_plan_knows_the_prefix(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base, recipe = tmp_path / "base", Path(__file__).parents[2] / "recipes" / "zhuzhi.toml"
    shape = DecoderConfig(tokenizer.vocab_size, 32, 48, 2, 4, 2, 16, 32768, rotary_dim=8, qkv_bias=True)
    save_model(Decoder(shape), base, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    tokenizer.save(base)
    rows = [{"prompt": "你好", "response": "明月照我还。", "history": [["Hello", "Hello, world"]]}] * 60
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    here = [f"--set=sft.base={base}", f'--set=sft.inputs=["{tmp_path}/chats.jsonl"]', f"--set=runs_dir={tmp_path}/runs"]
    few = [f"--set=sft.{key}" for key in ("max_steps=2", "batch_tokens=8192", "template=chatml", "compile=off")]
    planned = inkstone("plan", recipe, *here, *few, "--gpu", "h100")
    assert planned.code == 0 and "0.0 M parameters, 0.0 M trained on 1 x h100" in planned.out, planned.said
    ended = inkstone("run", recipe, *here, *few)
    assert ended.code == 0, ended.said
    run = tmp_path / "runs" / "zhuzhi" / "sft"
    told = json.loads((run / "prefix" / "adapter_config.json").read_text())
    assert (told["num_virtual_tokens"], told["token_dim"], told["first_position"]) == (128, 32, 0)
    model = load_model(run)
    with torch.no_grad(), adapter_off(model):
        assert model.model.prefix and torch.isfinite(model(torch.tensor([[5, 6, 7]]))).all()
