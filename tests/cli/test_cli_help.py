"""One verb, one page of help; what is mistyped is refused with exit code 2, what fails says so in a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tiny_run import Ended, inkstone
from typer.testing import CliRunner

from inkstone import __version__
from inkstone.cli.commands import app

COMMANDS = {
    "run": ["--set", "--dry-run", "--until"],
    "curate": ["run", "audit"],
    "curate run": ["--set", "--dry-run"],
    "curate audit": ["--reason", "--source", "--lang", "--limit", "--json"],
    "curate quality": [],
    "mixture": ["fit"],
    "mixture fit": ["--set", "--dry-run"],
    "pretrain": ["--set", "--dry-run"],
    "tune": ["run", "preview"],
    "tune run": ["--set", "--dry-run"],
    "tune preview": ["--rows", "--stage"],
    "report": [],
    "merge": [],
    "merge adapter": ["--output"],
    "merge models": ["--method", "--weights", "--density"],
    "serve": ["--api-key", "--port", "--memory-gib"],
    "launch": ["--nproc", "--nodes", "--slurm", "--submit"],
    "plan": ["--gpu", "--count", "--set"],
    "primer": ["--output", "-o", "--size-mb", "--seed"],
    "evaluate": ["run", "compare", "explain", "leaderboard", "contamination"],
    "evaluate run": ["--output", "--tasks", "--adapter", "--quantize", "--quiz", "--tokens", "--shots"],
    "evaluate compare": ["--force", "--judge"],
    "evaluate explain": ["--data", "--item"],
    "evaluate leaderboard": [],
    "evaluate contamination": ["--tasks", "--data", "--output", "--overlap"],
    "chat": [
        "--system",
        "--template",
        "--temperature",
        "--top-k",
        "--max-new-tokens",
        "--seed",
        "--show-prompt",
        "--quantize",
    ],
    "generate": [
        "--lookup",
        "--prompts",
        "--output",
        "--n",
        "--temperature",
        "--stop",
        "--schema",
        "--quantize",
        "--adapter",
    ],
    "convert": ["--dtype", "--family", "--shard-size"],
    "quantize": ["--method", "--bits", "--group-size", "--layout", "--calibration", "--act-order"],
    "inspect": ["--model", "--json"],
    "template": ["list", "show", "attach"],
    "template list": [],
    "template show": ["--model"],
    "template attach": [],
    "tokenizer": ["train", "encode", "extend", "measure"],
    "tokenizer extend": ["--output", "--add", "--choose", "--characters", "--pad-to"],
    "tokenizer measure": ["--text", "--chars", "--chart", "--json"],
    "tokenizer train": ["--output", "--vocab-size", "--character-coverage", "--weights", "--sample-mb"],
    "tokenizer encode": ["--output"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_a_page_of_help_with_its_options(verb: str) -> None:
    ended = inkstone(*verb.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: inkstone {verb}" in ended.out
    assert all(option in ended.out for option in COMMANDS[verb])


def test_the_list_of_commands_here_is_complete() -> None:
    group = typer.main.get_group(app)
    nested = [f"{verb} {name}" for verb, one in group.commands.items() for name in getattr(one, "commands", {})]
    assert sorted([*group.commands, *nested]) == sorted(COMMANDS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_at_80_columns_no_name_of_an_option_and_no_word_of_its_help_is_lost(
    verb: str,
) -> None:
    page = CliRunner().invoke(app, [*verb.split(), "--help"], terminal_width=80).output
    assert max(map(len, page.splitlines())) <= 80 and "…" not in page
    command = typer.main.get_group(app)
    for name in verb.split():
        command = command.commands[name]
    # Words are compared without the breaks that wrapping puts between them.
    words = "".join(page.split())
    for parameter in command.params:
        assert all(name in page for name in parameter.opts if name.startswith("-"))
        assert "".join((parameter.help or "").split()) in words


def test_the_verbs_stand_in_the_order_of_the_work() -> None:
    page = inkstone("--help").out
    places = [page.index(f"\n  {verb} ") for verb in ("run", "curate", "tokenizer", "pretrain", "tune", "chat")]
    assert places == sorted(places)


def test_the_version_is_said_and_a_group_says_what_it_takes() -> None:
    assert inkstone("--version") == Ended(0, f"inkstone {__version__}\n", "")
    assert inkstone("curate", "--help").out.startswith("Usage: inkstone curate RECIPE [OPTIONS]")
    assert "{CORPUS}... {TOKENIZER}" in inkstone("tokenizer", "encode", "--help").out
    assert "{BASE} {CORPUS}..." in inkstone("tokenizer", "extend", "--help").out


def test_help_lists_the_verbs_and_no_argument_is_help_too() -> None:
    ended = inkstone("--help")
    assert ended.code == 0
    assert all(verb.split()[0] in ended.out for verb in COMMANDS)
    assert inkstone().code == 2


def test_help_answers_without_loading_a_library_that_takes_seconds() -> None:
    code = "import sys, inkstone.cli.commands; print([m for m in ('torch', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["walk"], "walk"),
        (["run"], "RECIPE"),
        (["run", "x.toml", "--fast"], "--fast"),
        (["primer"], "--output"),
        (["primer", "-o", "x", "--size-mb", "99"], "--size-mb"),
        (["primer", "-o", "x", "--size-mb", "big"], "--size-mb"),
        (["primer", "-o", "x", "--seed", "-1"], "--seed"),
        (["tokenizer", "train", "c", "-o", "x", "--vocab-size", "12"], "--vocab-size"),
        (["tokenizer", "train", "c", "-o", "x", "--character-coverage", "2"], "--character-coverage"),
        (["evaluate", "m", "-o", "x", "--shots", "-1"], "--shots"),
        (["chat", "m", "--temperature", "-1"], "--temperature"),
        (["chat", "m", "--top-p", "0"], "--top-p"),
        (["chat", "m", "--max-new-tokens", "0"], "--max-new-tokens"),
    ],
)
def test_a_mistyped_command_is_refused_naming_what_is_wrong(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = inkstone(*arguments)
    assert ended.code == 2
    usage, error = ended.err.split("Error", 1)
    assert usage.startswith("Usage: inkstone")
    assert named in error
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_no_module_of_the_command_line_imports_the_commands_that_import_it() -> None:
    folder = Path(__file__).parents[2] / "inkstone" / "cli"
    importing = [path.name for path in folder.glob("*.py") if "cli.commands import" in path.read_text("utf-8")]
    assert importing == ["__init__.py"]
