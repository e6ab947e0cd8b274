"""The sft stage from conversations on disk to a chat model that transformers opens and stops."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_tune_grpo import with_large_embeddings

from inkstone.chat import CHATML, Message, encode_chat, load_template, save_template
from inkstone.chat.template import Piece, Turn
from inkstone.errors import InputError
from inkstone.generate import SamplingSettings, generate
from inkstone.model import load_model
from inkstone.model.decoder.lora import merge_lora
from inkstone.model.files.adapter import load_adapter
from inkstone.model.files.directory import read_stop_ids
from inkstone.progress import Field, Silent
from inkstone.tokenizer import Tokenizer
from inkstone.tune import SFTSettings, Work, sft


def tiny_settings(**changes: object) -> SFTSettings:
    values = {
        "inputs": ["chats.jsonl"], "sequence_length": 64, "batch_tokens": 256, "epochs": 1000, "max_steps": 40,
        "learning_rate": 2e-2, "warmup_steps": 3, "device": "cpu", "dtype": "float32", "compile": "off",
        "heldout_fraction": 0.1, "log_steps": 5, "checkpoint_steps": 20,
    }  # fmt: skip
    return SFTSettings.model_validate({**values, **changes})


ANSWERS = {"你好": "你好，世界！", "what is 12 + 7?": "The answer is 19.", "Hello": "明月照我还。"}
CHATS = [[Message("user", question), Message("assistant", answer)] for question, answer in ANSWERS.items()] * 8


def write_chats(path: Path, chats: list[list[Message]]) -> Path:
    rows = [{"messages": [{"role": one.role, "content": one.content} for one in chat]} for chat in chats]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def stage(
    root: Path,
    base_dir: Path,
    settings: SFTSettings,
    chats: list[list[Message]] = CHATS,
    progress: Silent | None = None,
) -> dict[str, object]:
    for name in ("output", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    inputs = [write_chats(root / "chats.jsonl", chats)]
    return sft(Work(settings, inputs, base_dir, root / "output", root / "scratch", progress or Silent()))


@pytest.fixture(scope="module")
def tuned(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    root = tmp_path_factory.mktemp("sft")
    return root / "output", stage(root, base_dir, tiny_settings())


def test_the_tuned_model_answers_and_stops(tuned: tuple[Path, dict[str, object]]) -> None:
    directory, _ = tuned
    tokenizer, model, template = Tokenizer.load(directory), load_model(directory), load_template(directory)
    for question, answer in CHATS[:3]:
        prompt, _ = encode_chat([question], template, tokenizer, add_generation_prompt=True)
        [ids] = generate(model, [prompt], SamplingSettings(max_new_tokens=30), read_stop_ids(directory))
        assert tokenizer.decode(ids) == answer.content


def test_transformers_opens_model_tokenizer_and_template_and_gives_the_same_answer(
    tuned: tuple[Path, dict[str, object]],
) -> None:
    transformers = pytest.importorskip("transformers")
    directory, _ = tuned
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop in model.generation_config.eos_token_id
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "what is 12 + 7?"}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )  # fmt: skip
    ours, _ = encode_chat([CHATS[1][0]], CHATML, Tokenizer.load(directory), add_generation_prompt=True)
    assert prompt["input_ids"][0].tolist() == ours
    answer = model.generate(**prompt, max_new_tokens=30)[0, len(ours) :].tolist()
    assert answer[-1] == stop
    assert tokenizer.decode(answer[:-1]) == "The answer is 19."


def test_figures_are_plain_json_and_add_up(tuned: tuple[Path, dict[str, object]]) -> None:
    directory, result = tuned
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["conversations"] == 21, "every tenth of 24 conversations is held out"
    assert result["shortened_conversations"] == result["too_long_conversations"] == result["skipped_rows"] == 0
    assert 0 < result["supervised_share"] < 1 and 0 < result["fill"] <= 1  # type: ignore[operator]
    assert isinstance(result["heldout_loss"], float) and result["heldout_loss"] < 0.5
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 40


def test_long_conversations_are_shortened_or_left_out_and_counted(base_dir: Path, tmp_path: Path) -> None:
    long_round = [Message("user", "Hello " * 20), Message("assistant", "你好")]
    chats = [CHATS[0], long_round, CHATS[1] * 8, [*long_round, *CHATS[2]], CHATS[2]]
    result = stage(tmp_path, base_dir, tiny_settings(heldout_fraction=0, max_steps=1), chats)
    assert result["too_long_conversations"] == 1
    assert result["shortened_conversations"] == 2
    assert result["conversations"] == 4


def test_conversations_that_are_all_too_long_are_refused(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no conversation is left to train on"):
        stage(tmp_path, base_dir, tiny_settings(), [[Message("user", "Hello " * 30), Message("assistant", "你好")]])


def test_rows_longer_than_the_models_positions_are_refused(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sequence_length = 128 exceeds the model's 96 positions"):
        stage(tmp_path, base_dir, tiny_settings(sequence_length=128))


def test_malformed_rows_are_refused_or_skipped_and_counted(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')
    good = write_chats(tmp_path / "good.jsonl", CHATS)
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    places = [tmp_path / "good.jsonl", tmp_path / "bad.jsonl"], base_dir, tmp_path / "output", tmp_path / "scratch"
    with pytest.raises(InputError, match=r"bad\.jsonl:1"):
        sft(Work(tiny_settings(max_steps=1), *places, Silent()))
    result = sft(Work(tiny_settings(max_steps=1, on_problem="skip"), *places, Silent()))
    assert good.exists() and result["skipped_rows"] == 1


def test_a_tuning_run_that_is_stopped_continues_to_the_same_bytes(
    base_dir: Path, tuned: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    class Stop(Silent):
        def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
            if done == 13:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 13 of 40"):
        stage(tmp_path, base_dir, tiny_settings(), progress=Stop())
    stage(tmp_path, base_dir, tiny_settings())
    saved = [directory / "model.safetensors" for directory in (tmp_path / "output", tuned[0])]
    assert saved[0].read_bytes() == saved[1].read_bytes()


def test_a_run_with_dropout_that_is_stopped_continues_to_the_same_bytes(base_dir: Path, tmp_path: Path) -> None:
    class Stop(Silent):
        def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
            if done == 5:
                signal.raise_signal(signal.SIGTERM)

    settings = tiny_settings(bpe_dropout=0.3, max_steps=10)
    for name in ("stopped", "whole", "plain"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "stopped", base_dir, settings, progress=Stop())
    stage(tmp_path / "stopped", base_dir, settings)
    stage(tmp_path / "whole", base_dir, settings)
    stage(tmp_path / "plain", base_dir, tiny_settings(max_steps=10))
    saved = [(tmp_path / name / "output/model.safetensors").read_bytes() for name in ("stopped", "whole", "plain")]
    assert saved[0] == saved[1] != saved[2]


def test_a_template_that_closes_only_the_last_answer_learns_every_answer_in_a_sequence_of_its_own(
    base_dir: Path, tmp_path: Path
) -> None:
    """baichuan2's way, with our own tokens: the history is not closed, so each answer ends a sequence."""
    template = replace(CHATML, name="open", past_answer=Turn(CHATML.turns["assistant"].header, (Piece("text", "\n"),)))
    rounds = [*CHATS[0], *CHATS[1]]
    shutil.copytree(base_dir, tmp_path / "base")
    save_template(template, tmp_path / "base")
    settings = tiny_settings(template="auto", heldout_fraction=0.5, max_steps=2)
    result = stage(tmp_path, tmp_path / "base", settings, [rounds] * 6)
    assert result["conversations"] == 6  # three conversations of two sequences; the other three are held out
    assert load_template(tmp_path / "output") == template


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("llama3", 'template "llama3" does not fit this tokenizer, which has no token <|begin_of_text|>'),
        ("auto", "is a base model without a chat template"),
    ],
)
def test_a_template_that_does_not_fit_the_base_is_refused(
    template: str, sentence: str, base_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        stage(tmp_path, base_dir, tiny_settings(template=template))
    assert sentence in str(caught.value)


def test_roles_that_a_template_has_no_place_for_are_counted_before_training(base_dir: Path, tmp_path: Path) -> None:
    narrow = replace(CHATML, turns={role: CHATML.turns[role] for role in ("user", "assistant")})
    shutil.copytree(base_dir, tmp_path / "base")
    save_template(narrow, tmp_path / "base")
    chats = [*CHATS, *([Message("system", "hi"), *chat] for chat in CHATS[:5])]
    with pytest.raises(InputError, match=r'has no role "system", which 5 of 29 conversations use: take these'):
        stage(tmp_path, tmp_path / "base", tiny_settings(template="auto"), chats)


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="there is no such template; known are auto, alpaca, baichuan"):
        tiny_settings(template="vicuna")


class StopsAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.wanted, self.steps = steps, 0

    def should_stop(self) -> bool:
        return self.steps >= self.wanted

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        self.steps = int(done)


def test_qlora_trains_over_packed_weights_and_merges_into_the_base_as_it_is(base_dir: Path, tmp_path: Path) -> None:
    base = with_large_embeddings(base_dir, tmp_path / "base")
    settings = tiny_settings(adapter="lora", lora={"quantize": "nf4", "rank": 8}, max_steps=30)
    stage(tmp_path / "whole", base, settings)
    rows = (tmp_path / "whole" / "output" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, rows) if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    merged, expected = load_model(tmp_path / "whole" / "output"), load_model(base, torch.float32)
    load_adapter(expected, tmp_path / "whole" / "output" / "adapter")
    merge_lora(expected)
    assert all(torch.equal(weight, merged.get_parameter(name)) for name, weight in expected.named_parameters())
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "stopped", base, settings, progress=StopsAfter(7))
    stage(tmp_path / "stopped", base, settings)
    again = load_model(tmp_path / "stopped" / "output")
    assert all(torch.equal(weight, again.get_parameter(name)) for name, weight in merged.named_parameters())
