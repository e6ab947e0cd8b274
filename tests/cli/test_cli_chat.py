"""`inkstone chat` with piped input: the replies and nothing else, so that a program can use it."""

import io
import json
import shutil
from pathlib import Path
from unittest import mock

from tiny_run import Ended, inkstone

from inkstone.chat import Message
from inkstone.generate import SamplingSettings, stream_reply
from inkstone.model import open_directory

GREEDY = ("--max-new-tokens", "6")


def chat(model: Path, typed: str, *options: str) -> Ended:
    with mock.patch("sys.stdin", io.StringIO(typed)):
        return inkstone("chat", model, *options)


def replies(model: Path, turns: list[str], system: str | None = None, **sampling: float) -> str:
    """The same conversation through the library."""
    opened = open_directory(model, chat=True)
    history = [Message("system", system)] if system else []
    said = ""
    for turn in turns:
        history.append(Message("user", turn))
        reply = "".join(stream_reply(opened, history, SamplingSettings(**{"top_p": 0.95, **sampling})))
        history.append(Message("assistant", reply))
        said += reply + "\n"
    return said


def test_piped_messages_get_their_replies_and_nothing_else(models: Path) -> None:
    ended = chat(models / "chat", "你好，你是谁？\nWho wrote Hamlet?\n", *GREEDY)
    assert (ended.code, ended.err) == (0, "")
    expected = replies(models / "chat", ["你好，你是谁？", "Who wrote Hamlet?"], max_new_tokens=6)
    assert ended.out == expected
    assert len(expected) > 2


def test_a_system_prompt_temperature_and_seed_are_used(models: Path) -> None:
    options = ("--system", "你是一个助手。", "--temperature", "0.9", "--seed", "7", "--max-new-tokens", "8")
    ended = chat(models / "chat", "你好\n", *options)
    sampling = {"temperature": 0.9, "seed": 7, "max_new_tokens": 8}
    assert ended.out == replies(models / "chat", ["你好"], "你是一个助手。", **sampling)
    assert ended.out != replies(models / "chat", ["你好"], None, **sampling)


def test_reset_starts_over_exit_leaves_and_empty_lines_are_no_messages(models: Path) -> None:
    once = replies(models / "chat", ["你好"], max_new_tokens=6)
    assert chat(models / "chat", "你好\n\n/reset\n你好\n/exit\nnot read\n", *GREEDY).out == once * 2


def test_help_is_answered_apart_from_the_replies_and_never_goes_to_the_model(models: Path) -> None:
    ended = chat(models / "chat", "/help\n你好\n", *GREEDY)
    assert ended.out == replies(models / "chat", ["你好"], max_new_tokens=6)
    assert ended.err.startswith("/help   these lines; they never go to the model\n/reset  ")


def test_no_input_is_no_reply(models: Path) -> None:
    assert chat(models / "chat", "") == Ended(0, "", "")


def test_a_message_that_is_too_long_is_refused_apart_from_the_replies_and_the_conversation_goes_on(
    models: Path,
) -> None:
    ended = chat(models / "chat", "长" * 500 + "\n你好\n", *GREEDY)
    assert ended.code == 0
    assert ended.out == replies(models / "chat", ["你好"], max_new_tokens=6)
    assert ended.err == "this message is too long: the model has 96 positions in all; shorten it\n"


def test_a_base_model_is_refused_with_what_to_do(models: Path) -> None:
    ended = chat(models / "base", "你好\n")
    assert (ended.code, ended.out) == (2, "")
    assert ended.said.startswith(
        f"error: {models / 'base'} is a base model without a chat template, so it cannot hold a conversation: "
        "tune it first (inkstone tune), chat with a tuned model such as runs/primer/sft, or, if it was tuned "
        "elsewhere, say how its conversations are written with --template NAME, one of alpaca, baichuan"
    )


def test_a_base_model_speaks_in_the_template_that_is_named(models: Path) -> None:
    ended = chat(models / "base", "你好\n", *GREEDY, "--template", "chatml")
    assert ended.out == replies(models / "chat", ["你好"], max_new_tokens=6)
    assert chat(models / "base", "你好\n", "--template", "llama3").said == (
        'error: template "llama3" does not fit this tokenizer, which has no token <|begin_of_text|>, '
        "<|start_header_id|>, <|end_header_id|>, <|eot_id|>, <|end_of_text|>: "
        "name another template (inkstone template list)"
    )
    assert "known are alpaca, baichuan" in chat(models / "base", "", "--template", "chatlm").said


def test_the_prompt_is_shown_apart_from_the_replies(models: Path) -> None:
    ended = chat(models / "chat", "你好\n", *GREEDY, "--show-prompt")
    assert ended.out == replies(models / "chat", ["你好"], max_new_tokens=6)
    assert ended.err.startswith("<|bos|><|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n⟨")


def test_the_directory_says_how_to_sample_and_the_command_line_overrides_it(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "chat", tmp_path / "m")
    published = {"do_sample": True, "temperature": 3.0, "top_k": 40, "top_p": 0.9, "max_new_tokens": 9}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(published), encoding="utf-8")
    ended = chat(tmp_path / "m", "你好\n", "--seed", "5")
    sampled = replies(models / "chat", ["你好"], temperature=3.0, top_k=40, top_p=0.9, max_new_tokens=9, seed=5)
    assert ended.out == sampled
    ended = chat(tmp_path / "m", "你好\n", "--temperature", "0", "--max-new-tokens", "6")
    assert ended.out == replies(models / "chat", ["你好"], max_new_tokens=6)
    assert ended.out != sampled


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    ended = chat(tmp_path, "你好\n")
    assert (ended.code, ended.out) == (2, "")
    assert ended.said == f"error: {tmp_path} is not a model directory: it has no config.json"
    assert chat(tmp_path / "nosuch", "").said.startswith(f"error: {tmp_path / 'nosuch'} does not exist: give a model")


def test_a_run_is_answered_with_the_models_in_it_the_chat_model_first(models: Path) -> None:
    inside = f"; there are models inside: {models / 'chat'}, {models / 'base'}"
    assert chat(models, "你好\n").said.endswith(inside)


def test_a_device_that_is_not_there_is_refused_in_a_sentence(models: Path) -> None:
    ended = chat(models / "chat", "", "--device", "nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert "device nowhere: PyTorch has no such device here; leave it out, or give cpu or cuda" in ended.err
