"""inkstone tokenizer extend: learn, append, grow the model's rows, draw the curve, say what it saves."""

from collections.abc import Sequence
from pathlib import Path

import typer

from inkstone.cli.options import refuse_existing
from inkstone.cli.progress import show_progress
from inkstone.storage import atomic_directory, write_json
from inkstone.tokenizer import ExtendSettings, Extension, Tokenizer, extend_tokenizer


def extend_directory(
    source: Path, corpus: Path | Sequence[Path], output: Path, settings: ExtendSettings, pad_to: int, chart: bool
) -> None:
    """Write the extended model directory, or only a tokenizer where `source` has no weights."""
    refuse_existing(output)
    base = Tokenizer.load(source)
    has_model = source.is_dir() and (source / "config.json").is_file()
    with show_progress("extend") as progress, atomic_directory(output) as draft:
        extension = extend_tokenizer(base, corpus, settings, progress)
        report = dict(extension.report)
        if has_model:
            from inkstone.model.files.vocabulary import extend_model

            report["model"] = extend_model(source, base, extension, draft, pad_to)
        else:
            extension.tokenizer.save(draft)
        if chart and settings.choose:
            (draft / "alp.svg").write_text(_curve(extension), encoding="utf-8")
        write_json(draft / "extension.json", report)
    _say(report, output)


def _curve(extension: Extension) -> str:
    from inkstone.report.charts import Line, line_chart

    curves: dict[int, list[tuple[int, float]]] = {}
    for point in extension.report["grid"]:  # type: ignore[attr-defined]
        curves.setdefault(point["characters"], []).append((point["added"], point["alp"]))
    lines = [
        Line(f"{number} characters", [added for added, _ in curve], [value for _, value in curve], dots=True)
        for number, curve in curves.items()
    ]
    svg = line_chart("alp", "ALP against tokens added (higher is better)", lines, "tokens added", "ALP")
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" style="background: white"', 1) + "\n"


def _say(report: dict[str, object], output: Path) -> None:
    tokens, checked = report["tokens"], report["text_without_chinese"]
    assert isinstance(tokens, dict) and isinstance(checked, dict)
    typer.echo(
        f"{report['added']} tokens added ({report['added_characters']} of one character): "
        f"{report['base_vocab_size']} -> {report['vocab_size']}\n"
        f"the corpus's Chinese: {tokens['before']} -> {tokens['after']} tokens, {tokens['saved']:.1%} saved\n"
        f"{checked['characters']} characters of text without Chinese: no id changed"
    )
    typer.echo(output)
