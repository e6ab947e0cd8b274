"""Reading a recipe: everything that is wrong is said at once, each with its section, key and way out."""

from pathlib import Path

import pytest

from inkstone.errors import InputError
from inkstone.recipe import PRIMER_PARTS, Recipe, read_recipe

GOOD = """
name = "mine"
[corpus]
inputs = ["my/*.txt"]
[tokenizer]
[pretrain]
[evaluate]
"""


def read(folder: Path, text: str, overrides: list[str] | None = None) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, overrides)


def problems(folder: Path, text: str, overrides: list[str] | None = None) -> list[str]:
    """What is wrong, without the file's name in front."""
    with pytest.raises(InputError) as caught:
        read(folder, text, overrides)
    assert caught.value.exit_code == 2
    return [problem.removeprefix(f"{folder / 'recipe.toml'}: ") for problem in caught.value.problems]


def test_mistakes_in_several_sections_are_reported_at_once_with_section_and_key(tmp_path: Path) -> None:
    text = GOOD.replace("[tokenizer]", '[tokenizer]\nvocab_sise = 8000\nsample_mb = "much"').replace(
        "[pretrain]", "[pretrain]\nsequence_length = 4096\nbatch_tokens = 8192"
    )
    assert problems(tmp_path, text) == [
        "[tokenizer] sample_mb = 'much': input should be a valid number, unable to parse string as a number",
        "[tokenizer] vocab_sise: there is no such key; did you mean vocab_size?",
        "[pretrain] sequence_length = 4096 exceeds the model's 2048 positions: shorten it, or raise [model] "
        "max_positions",
    ]


def test_every_line_of_the_message_names_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD + "shotz = 1\n[pretain]\n")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{tmp_path}/recipe.toml"] * 2


def test_an_unknown_section_is_named_with_the_closest_known_one(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD + "[evalute]\n") == ["evalute: there is no such key; did you mean evaluate?"]
    (found,) = problems(tmp_path, GOOD + "[zzz]\n")
    assert found.startswith("zzz: there is no such key; known: name, runs_dir, trackers, primer, corpus")


def test_an_unknown_key_far_from_any_other_lists_what_is_known(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD.replace("[tokenizer]", "[tokenizer]\nzzz = 1"))
    assert found.startswith("[tokenizer] zzz: there is no such key; known: vocab_size, character_coverage")


def test_an_unknown_key_of_a_nested_table_gets_a_suggestion(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD + "[corpus.rules.zh]\nmin_token = 3\n[corpus.dedup]\nband = 1\n")
    assert found == [
        "[corpus] rules.zh.min_token: there is no such key; did you mean min_tokens?",
        "[corpus] dedup.band: there is no such key; did you mean bands?",
    ]


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, 'name = "x"\nprimer = 3\n')
    assert found.startswith("[primer] = 3: input should be a valid dictionary")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", ".hidden", "a b"])
def test_a_name_that_would_leave_the_runs_directory_is_refused(tmp_path: Path, name: str) -> None:
    (found,) = problems(tmp_path, f'name = "{name}"\n')
    assert found.startswith(f"name = '{name}': ")


def test_a_chinese_name_is_a_name(tmp_path: Path) -> None:
    assert read(tmp_path, 'name = "古诗-1.0"\n').run_dir == Path("runs/古诗-1.0")


def test_a_recipe_without_a_name_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "[primer]\n") == ["name is missing: every run needs one"]


def test_a_missing_recipe_says_where_some_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: there is no such recipe; recipes/ holds some to start from$"):
        read_recipe(tmp_path / "nowhere.toml")


def test_a_directory_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a recipe: Is a directory"):
        read_recipe(tmp_path)


def test_invalid_toml_is_named_with_line_and_column(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, 'name = "x\n')
    assert found.startswith(f"{tmp_path}/recipe.toml is not valid TOML: ")
    assert "line 1" in found


def test_a_recipe_that_is_not_utf8_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "gbk.toml").write_bytes('name = "古诗"'.encode("gbk"))
    with pytest.raises(InputError, match="is not valid TOML: 'utf-8' codec can't decode"):
        read_recipe(tmp_path / "gbk.toml")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ('[tokenizer]\n[sft]\ninputs = ["c.jsonl"]\nbase = "some/model"\n', ["[tokenizer] needs a [corpus] section"]),
        ('[corpus]\ninputs = ["a"]\n[pretrain]\n', ["[pretrain] needs a [tokenizer] section"]),
        (
            '[sft]\ninputs = ["c.jsonl"]\n',
            ['[sft] base = "pretrain" needs a [pretrain] section; or set base to a model directory'],
        ),
        ("[sft]\n", ["[sft]: inputs is missing"]),
        (
            "[evaluate]\n",
            ["[evaluate] needs a [pretrain] or [sft] section; for a model directory use inkstone evaluate"],
        ),
        (
            '[sft]\ninputs = ["c.jsonl"]\nbase = "some/model"\n[evaluate]\n',
            [
                "[evaluate] has nothing to do: set quiz, problems, prompts or tasks, "
                "or heldout = true with a [tokenizer] section",
            ],
        ),
        (
            "[model]\nhidden_size = 100\nnum_heads = 3\n",
            [
                "[model]: hidden_size = 100 is not a multiple of num_heads = 3: change one of them, or set head_dim",
            ],
        ),
        (
            '[corpus]\ninputs = ["a"]\n[tokenizer]\n[pretrain]\nbatch_tokens = 1000\nsequence_length = 300\n',
            ["[pretrain]: batch_tokens = 1000 is not a multiple of sequence_length = 300"],
        ),
    ],
)
def test_what_one_section_needs_of_another_is_said(tmp_path: Path, sections: str, expected: list[str]) -> None:
    assert problems(tmp_path, 'name = "x"\n' + sections) == expected


def test_sections_that_need_each_other_and_are_there_are_fine(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert recipe.pretrain and recipe.tokenizer and recipe.evaluate and recipe.sft is None and recipe.primer is None


PRIMER_EVERYWHERE = """
name = "x"
[corpus]
inputs = ["primer:raw"]
[tokenizer]
[pretrain]
[sft]
inputs = ["primer:chats"]
[evaluate]
quiz = "primer:quiz"
"""


def test_every_reference_to_a_primer_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path, PRIMER_EVERYWHERE) == [
        '[corpus] inputs = "primer:raw" needs a [primer] section',
        '[sft] inputs = "primer:chats" needs a [primer] section',
        '[evaluate] quiz = "primer:quiz" needs a [primer] section',
    ]


def test_an_unknown_part_of_the_primer_lists_the_parts(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, PRIMER_EVERYWHERE.replace("primer:chats", "primer:chat") + "[primer]\n")
    assert found == '[sft] inputs = "primer:chat": there is no such part; known: ' + ", ".join(
        f"primer:{part}" for part in PRIMER_PARTS
    )


def test_overrides_take_toml_values_bare_words_and_nested_keys(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        GOOD,
        [
            "name=other",
            "runs_dir=/somewhere/else",
            'corpus.inputs=["a.txt", "b/*.jsonl.zst"]',
            "corpus.rules.zh.min_tokens=3",
            "pretrain.learning_rate = 1e-4",
            "pretrain.dtype=float32",
            'pretrain.schedule="linear"',
            "evaluate.heldout=true",
            "sft.inputs=['chats.jsonl']",
        ],
    )
    assert recipe.run_dir == Path("/somewhere/else/other")
    assert recipe.corpus and recipe.pretrain and recipe.sft
    assert recipe.corpus.inputs == ["a.txt", "b/*.jsonl.zst"]
    assert recipe.corpus.rules.zh.min_tokens == 3
    assert recipe.corpus.rules.zh.max_symbol_share == 0.5, "the language's other limits keep their defaults"
    assert (recipe.pretrain.learning_rate, recipe.pretrain.dtype, recipe.pretrain.schedule) == (
        1e-4,
        "float32",
        "linear",
    )
    assert recipe.sft.inputs == ["chats.jsonl"]


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD.replace("[tokenizer]", "[tokenizer]\nvocab_size = 999"), ["tokenizer.vocab_size=888"])
    assert recipe.tokenizer and recipe.tokenizer.vocab_size == 888


def test_malformed_overrides_are_all_named_together_with_what_is_wrong_in_the_file(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        GOOD + "shotz = 1\n",
        ["pretrain.epochs", "=3", "name.first=x", "pretrain.epochs=many", "tokenizer.vocab=9"],
    )
    assert found == [
        "--set pretrain.epochs: expected key=value, e.g. --set pretrain.epochs=2",
        "--set =3: expected key=value, e.g. --set pretrain.epochs=2",
        "--set name.first=x: name is not a section",
        "[tokenizer] vocab: there is no such key; did you mean vocab_size?",
        "[pretrain] epochs = 'many': input should be a valid number, unable to parse string as a number",
        "[evaluate] shotz: there is no such key; did you mean shots?",
    ]


def test_a_size_decides_what_the_recipe_does_not_say(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        GOOD,
        ["model.size=7B", "model.num_kv_heads=8", "model.max_positions=4096", "pretrain.sequence_length=4096"],
    )
    assert recipe.pretrain
    shape = recipe.model.decoder_config(64000)
    assert (shape.num_layers, shape.hidden_size, shape.num_heads, shape.num_kv_heads) == (35, 4096, 32, 8)
    # DeepSeek's fits give 5.9e-4 and 5.1 M tokens at 5.9e21 FLOPs.
    assert (recipe.pretrain.learning_rate, recipe.pretrain.batch_tokens) == (5.9e-4, 2**22)
    assert recipe.pretrain.micro_tokens == 16384
    own = read(tmp_path, GOOD, ["model.size=2.5M", "model.num_layers=4", "pretrain.batch_tokens=512"])
    assert own.pretrain and (own.model.num_layers, own.pretrain.micro_tokens) == (4, 512)
    assert read(tmp_path, GOOD, ["model.size=0.5B"]).model.hidden_size == 1536


@pytest.mark.parametrize("size", ["0M", "0.0B", "seven", "7T", "9" * 400 + "B", 7])
def test_a_size_that_is_none_is_refused(size: object, tmp_path: Path) -> None:
    [problem] = problems(tmp_path, GOOD, [f"model.size={size}"])
    assert problem.startswith(f"[model] size = {size!r}: ")


def test_a_size_beside_a_sequence_length_that_is_none_is_said(tmp_path: Path) -> None:
    given = ["model.size=25M", "pretrain.sequence_length=long", "pretrain.batch_tokens=512"]
    assert problems(tmp_path, GOOD, given)[0].startswith("[pretrain] sequence_length = 'long'")
