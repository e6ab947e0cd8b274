"""A SentencePiece-like base is tuned in a published format and answers in a conversation that streams."""

import json
from pathlib import Path

import pytest
from tiny_tokenizers import sentencepiece_like

from inkstone.chat import TEMPLATES, Message
from inkstone.generate import SamplingSettings, stream_reply
from inkstone.model import ModelSettings, open_directory, save_model
from inkstone.progress import Silent
from inkstone.train import new_model
from inkstone.tune import SFTSettings, Work, sft

CHAT = [
    Message("user", "你好"),
    Message("assistant", "你好 user #1"),
    Message("user", "a 世 a"),
    Message("assistant", "  🙂 a\n好  "),
]


@pytest.mark.parametrize("name", ["baichuan2", "chatglm2", "llama2"])
def test_a_model_tuned_in_a_published_format_answers_every_round_and_stops(name: str, tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(TEMPLATES[name].control_tokens)
    shape = ModelSettings(hidden_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=192)
    base = new_model(shape, tokenizer.vocab_size, seed=1)
    save_model(base, tmp_path / "base", bos_id=1, eos_id=2, pad_id=2, stop_ids=[2])
    tokenizer.save(tmp_path / "base")
    rows = [{"messages": [{"role": one.role, "content": one.content} for one in CHAT]}] * 4
    (tmp_path / "chats.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = SFTSettings.model_validate(
        {"inputs": ["chats.json"], "template": name, "sequence_length": 128, "batch_tokens": 256, "max_steps": 70,
         "epochs": 1000, "learning_rate": 1e-2, "warmup_steps": 3, "heldout_fraction": 0,
         "device": "cpu", "dtype": "float32", "compile": "off"}
    )  # fmt: skip
    for folder in ("chat", "scratch"):
        (tmp_path / folder).mkdir()
    sft(Work(settings, [tmp_path / "chats.json"], tmp_path / "base", tmp_path / "chat", tmp_path / "scratch", Silent()))
    opened = open_directory(tmp_path / "chat", chat=True)
    greedy = SamplingSettings(max_new_tokens=40)
    for turn in (1, 3):
        assert "".join(stream_reply(opened, CHAT[:turn], greedy)).rstrip() == CHAT[turn].content.strip()
    said = json.loads((tmp_path / "chat" / "generation_config.json").read_text(encoding="utf-8"))
    sampling = TEMPLATES[name].sampling
    assert said["do_sample"] == (sampling is not None)
    assert sampling is None or said["temperature"] == sampling.temperature
