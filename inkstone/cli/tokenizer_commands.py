"""The tokenizer's verbs: train, encode, extend, measure."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from inkstone.cli.help import Group
from inkstone.cli.options import refuse_existing

tokenizer_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Train, extend or measure a tokenizer, or encode a corpus with one."
)

CorpusPaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="CORPUS",
        help="curated corpus directory, or text: files, folders (.txt, .md, .jsonl, .parquet, .csv, compressed too)",
    ),
]
Invalid = Annotated[
    Literal["refuse", "replace"],
    typer.Option(help="what to do with text that is not UTF-8: refuse it, or replace bad bytes"),
]


@tokenizer_app.command("train")
def train(
    corpus: CorpusPaths,
    output: Annotated[Path, typer.Option("--output", "-o", help="tokenizer directory to write")],
    vocab_size: Annotated[int, typer.Option(min=273, help="tokens in the whole vocabulary")] = 8192,
    character_coverage: Annotated[
        float, typer.Option(min=0.01, max=1, help="share of characters with a token of their own")
    ] = 0.9995,
    sample_mb: Annotated[float, typer.Option(min=0.01, help="train on a sample of about this many MB of text")] = 100.0,
    count_power: Annotated[
        float, typer.Option(min=0, max=1, help="a word met n times counts like n to this power; below 1 for new text")
    ] = 1.0,
    weights: Annotated[
        Path | None, typer.Option(help='JSON {"weights": {domain: number}}, e.g. mixture.json; a domain is lang/source')
    ] = None,
    invalid_utf8: Invalid = "refuse",
) -> None:
    """Train a BPE tokenizer with byte fallback on a curated corpus or on files of text."""
    from inkstone.cli.progress import show_progress
    from inkstone.storage import atomic_directory
    from inkstone.tokenizer import TokenizerSettings, train_tokenizer

    settings = TokenizerSettings(
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        sample_mb=sample_mb,
        count_power=count_power,
        invalid_utf8=invalid_utf8,
    )
    refuse_existing(output)
    with show_progress("tokenizer") as progress, atomic_directory(output) as draft:
        train_tokenizer(settings, _corpus(corpus), draft, progress, weights)
    typer.echo(output)


@tokenizer_app.command("encode")
def encode(
    corpus: CorpusPaths,
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="tokenizer directory or file")],
    output: Annotated[Path, typer.Option("--output", "-o", help="directory for the token shards")],
    processes: Annotated[int, typer.Option(min=0, help="processes that encode; 0 is one per core")] = 0,
    part_mb: Annotated[float, typer.Option(min=0.1, help="text that one process encodes at a time, in MB")] = 64.0,
    invalid_utf8: Invalid = "refuse",
) -> None:
    """Encode a corpus into token shards. Parts that are already encoded, in OUTPUT's store, are not encoded again."""
    from inkstone.cli.progress import show_progress
    from inkstone.storage import atomic_directory
    from inkstone.tokenizer import TokensSettings, encode_corpus

    if output.exists() and not (output / "manifest.json").is_file():
        refuse_existing(output)
    settings = TokensSettings(processes=processes, part_mb=part_mb, invalid_utf8=invalid_utf8)
    store = output.with_name(f".{output.name}.parts")
    with show_progress("tokens") as progress, atomic_directory(output) as draft:
        encode_corpus(settings, _corpus(corpus), tokenizer, draft, progress, store)
    typer.echo(output)


@tokenizer_app.command("extend")
def extend(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="model (or tokenizer) directory")],
    corpus: CorpusPaths,
    output: Annotated[Path, typer.Option("--output", "-o", help="model (or tokenizer) directory to write")],
    add: Annotated[int, typer.Option(min=1, help="tokens to add; with --choose the most that are tried")] = 25_000,
    choose: Annotated[
        Literal["alp"] | None, typer.Option(help="alp: as many as the knee of the ALP curve says")
    ] = None,
    characters: Annotated[
        str,
        typer.Option(
            help="numbers of single characters to try, e.g. 4451,5435,6414,7434; default: 99.95 % of the text"
        ),
    ] = "",
    pad_to: Annotated[int, typer.Option(min=1, help="round the number of embedding rows up to a multiple")] = 1,
    chart: Annotated[bool, typer.Option(help="draw the ALP curve as alp.svg (needs inkstone[report])")] = True,
    invalid_utf8: Invalid = "refuse",
) -> None:
    """Extend a vocabulary with Chinese pieces, and a model's embedding and head with it."""
    from inkstone.cli.extend import extend_directory
    from inkstone.errors import InputError
    from inkstone.tokenizer import ExtendSettings

    numbers = [number.strip() for number in characters.split(",") if number.strip()]
    wrong = [number for number in numbers if not number.isdecimal() or int(number) == 0]
    if wrong:
        raise InputError(f"--characters {characters}: {', '.join(wrong)} is no number of characters")
    settings = ExtendSettings(add=add, choose=choose, characters=tuple(map(int, numbers)), invalid_utf8=invalid_utf8)
    extend_directory(base, _corpus(corpus), output, settings, pad_to, chart)


@tokenizer_app.command("measure")
def tokenizer_measure(
    tokenizers: Annotated[
        list[Path],
        typer.Argument(metavar="TOKENIZER", help="tokenizer directories, .model, tokenizer.json or .gguf files"),
    ],
    text: Annotated[list[Path], typer.Option(help="text or corpus to measure on: a file or folder; repeatable")],
    chars: Annotated[
        int | None, typer.Option(min=1, help="read documents until this many characters are passed, per language")
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="write an SVG chart of tokens per character")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Compare tokenizers on the same texts: compression, coverage, round trips, ALP and speed."""
    from inkstone.cli.tokenizer_measure import measure_tokenizers

    measure_tokenizers(tokenizers, text, chars, chart, as_json)


def _corpus(paths: list[Path]) -> Path | list[Path]:
    return paths[0] if len(paths) == 1 else paths
