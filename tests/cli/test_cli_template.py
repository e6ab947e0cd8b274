"""`inkstone template`: the formats, an example of each, and a base model made a chat model."""

import json
import shutil
from pathlib import Path

from tiny_run import inkstone

from inkstone.chat import TEMPLATES, load_template


def test_every_template_is_listed_with_how_its_publisher_samples() -> None:
    ended = inkstone("template", "list")
    assert (ended.code, ended.err) == (0, "")
    assert all(name in ended.out for name in TEMPLATES)
    assert "temperature 0.3" in ended.out and "greedy" in ended.out


def test_an_example_is_shown_with_its_control_tokens() -> None:
    ended = inkstone("template", "show", "llama2")
    assert ended.out == (
        "<s>[INST] <<SYS>>\n简短地回答。\n<</SYS>>\n\n你好 [/INST] 你好！ </s><s>[INST] 1+1=? [/INST] 2 </s>\n"
    )
    assert (inkstone("template", "show", "lama").code, inkstone("template", "show").code) == (2, 2)


def test_with_a_model_the_reason_and_the_ids_are_shown(models: Path) -> None:
    ended = inkstone("template", "show", "--model", models / "chat")
    assert ended.out.startswith("chatml: chat_template.json of the directory\n<|bos|><|im_start|>system\n简短地回答。")
    assert "\nids [0, 3, " in ended.out and "\nlearned [" in ended.out


def test_attaching_makes_a_base_model_a_chat_model(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "m")
    ended = inkstone("template", "attach", "alpaca", tmp_path / "m")
    assert ended.code == 0
    assert load_template(tmp_path / "m") == TEMPLATES["alpaca"]
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"] == [1]
    refused = inkstone("template", "attach", "llama3", tmp_path / "m")
    assert refused.code == 2 and "has no token <|begin_of_text|>" in refused.said
    assert load_template(tmp_path / "m") == TEMPLATES["alpaca"]
    assert inkstone("template", "attach", "alpaca", tmp_path).said.endswith("it has no config.json")
