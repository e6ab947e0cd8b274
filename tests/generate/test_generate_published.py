"""A published chat model's directory is spoken with as it is: its weights' names, its vocabulary, its format."""

import json
from pathlib import Path

import pytest
from model.checkpoint_samples import CONFIGS, tensors_of, write

from inkstone.chat import Message, template_named
from inkstone.generate import SamplingSettings, build_prompt, stream_reply
from inkstone.model import open_directory

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"


def test_chatglm2_as_published_gets_its_prompt_and_stops(tmp_path: Path) -> None:
    if not (SHARED / "chatglm2.model").is_file():
        pytest.skip("chatglm2.model is not here")
    config = CONFIGS["chatglm"] | {"padded_vocab_size": 65024, "vocab_size": 65024}
    write(tmp_path, config, tensors_of(config))
    (tmp_path / "tokenizer.model").write_bytes((SHARED / "chatglm2.model").read_bytes())
    opened = open_directory(tmp_path, chat=True)
    assert opened.template == template_named("chatglm2")
    assert opened.stop_ids == {2}
    history = [Message("user", "你好")]
    greedy = SamplingSettings(max_new_tokens=12)
    golden = "64790 64792 790 30951 517 30910 30939 30996 13 13 54761 31211 39701 13 13 55437 31211"
    assert build_prompt(opened, history, greedy) == [int(one) for one in golden.split()]
    reply = "".join(stream_reply(opened, history, greedy))
    assert reply and reply == reply.lstrip()
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_chatglm.py"}}))
    assert "".join(stream_reply(open_directory(tmp_path, chat=True), history, greedy)) == reply
