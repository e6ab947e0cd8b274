"""The damaged inputs that trials by hand found, each with the sentence that it gets now."""

import json
import os
from pathlib import Path

import pytest
from faults.kinds import prepare
from tiny_run import inkstone

from inkstone.chat import read_chats
from inkstone.errors import InkstoneError, InputError
from inkstone.model import load_model
from inkstone.model.inspect import inspect_model
from inkstone.storage import reading
from inkstone.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    prepare(folder)
    return folder


def changed(samples: Path, tmp_path: Path, name: str, file: str, **changes: object) -> Path:
    """A copy of a sample, by links, with keys of one JSON file changed."""
    for path in (samples / name).iterdir():
        (tmp_path / path.name).symlink_to(path)
    values = json.loads((samples / name / file).read_text())
    (tmp_path / file).unlink()
    (tmp_path / file).write_text(json.dumps(values | changes))
    return tmp_path


@pytest.mark.parametrize("size", [2**31, 2**31 + 1, 2**63, 10**30, 10**400, 1e308, float("nan")])
@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "max_position_embeddings"])
def test_a_size_that_no_model_has_is_refused_before_anything_is_built(
    key: str, size: float, samples: Path, tmp_path: Path
) -> None:
    directory = changed(samples, tmp_path, "llama", "config.json", **{key: size})
    for use in (inspect_model, load_model):
        with pytest.raises(InputError, match=f"{key}|larger than any model's|is missing|not a multiple|has shape"):
            use(directory)


def test_a_config_is_told_what_is_wrong_with_it(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quantization_config = 1 is not a table of settings"):
        inspect_model(changed(samples, tmp_path, "llama", "config.json", quantization_config=1))


@pytest.mark.parametrize("number", [2147483648, -1, 1.5, "1", None])
def test_an_id_beyond_any_vocabulary_is_refused(number: object, samples: Path, tmp_path: Path) -> None:
    spec = json.loads((samples / "bytes" / "tokenizer.json").read_text())
    spec["model"]["vocab"]["hello"] = number
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match="ids that are no numbers from 0 to"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("text", ["\ufeff{}", "{" * 99_999, '{"a":' * 99_999])
def test_a_safetensors_header_is_utf8_without_a_mark_as_the_library_asks(text: str, tmp_path: Path) -> None:
    for content in (text.encode(), "{}".encode("utf-16")):
        (tmp_path / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(InputError):
            load_model(tmp_path)


def test_a_pipe_with_the_name_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=r"x\.jsonl is not a file"):
        read_chats([tmp_path / "x.jsonl"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('corpus.inputs=["/"]', "is the whole file system"),
        ('corpus.inputs=["~nobody_x/*"]', "could not determine home directory"),
        ('runs_dir="a\\u0000b"', "holds the character NUL"),
        ("name=" + "[" * 100_000, "its value is nested too deeply"),
    ],
)
def test_a_setting_that_names_no_place_is_refused(setting: str, said: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "x"\n[corpus]\ninputs = ["my"]\n')
    ended = inkstone("run", recipe, "--set", setting, "--dry-run")
    assert ended.code == 2 and said in ended.said


def test_the_guard_turns_what_a_library_raises_into_a_sentence_and_lets_the_rest_pass() -> None:
    class PanicException(BaseException):
        """As Rust's."""

    for raised in (KeyError("x"), RecursionError(), PanicException("at line 3")):
        sentence = r"^f\.json is damaged, or not a thing \(.*\): copy or make it again$"
        with pytest.raises(InputError, match=sentence), reading("f.json", "a thing"):
            raise raised
    for passed in (InkstoneError("said"), FileNotFoundError("f"), KeyboardInterrupt()):
        with pytest.raises(type(passed)) as caught, reading("f.json", "a thing"):
            raise passed
        assert caught.value is passed


def test_a_prefix_that_the_merges_do_not_have_never_reaches_the_library_which_would_abort(
    samples: Path, tmp_path: Path
) -> None:
    spec = json.loads((samples / "pieces" / "tokenizer.json").read_text())
    spec["model"]["continuing_subword_prefix"] = "%s"
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match="merges without its continuing_subword_prefix"):
        Tokenizer.load(tmp_path)
