"""Charts as inline SVG: drawn by matplotlib, coloured by the page.

Text stays text (so Chinese labels use the reader's fonts), the background is transparent, and axes take the page's
text colour, so one drawing serves light and dark. The same figures give the same bytes; ids carry the chart's name,
because all charts share one page.
"""

import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inkstone.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3b82c4", "#d97b29", "#3f9d6b", "#b4578f", "#8a6fd1", "#bd9b2f", "#46a3ab", "#8c8c8c")
_INK = "#010203"  # stands for the page's text colour until `_inline` replaces it
_WIDTH = 7.2  # inches; the page scales the drawing to its column
_EM = 9.5 / 72  # inches per em of label text


@dataclass(frozen=True)
class Line:
    """A named curve; `dots` marks its points, for curves with few of them."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class Bars:
    """A named set of horizontal bars, one value (or None) per label; `errors` are half-lengths."""

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None] | None = None


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's settings while a chart is drawn: text as text, no formulas in labels, the same ids every time."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "The report draws with matplotlib: install it with `pip install 'inkstone[report]'`."
        ) from error
    quiet = logging.getLogger("matplotlib.font_manager")
    level = quiet.level
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "inkstone", "text.parse_math": False}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's browser has the font, this machine may not
        quiet.setLevel(logging.ERROR)
        try:
            yield
        finally:
            quiet.setLevel(level)


@_style()
def line_chart(name: str, title: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Curves over a common axis."""
    figure, axes = _figure(height=2.9, left=0.75, title=title)
    for index, line in enumerate(lines):
        marker = "o" if line.dots or len(line.x) == 1 else ""
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(line.x, line.y, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=line.name)
    _label(axes, x_label, y_label, legend=len(lines) > 1)
    return _svg(figure, name, title)


@_style()
def histogram(
    name: str,
    title: str,
    groups: Sequence[tuple[str, Sequence[int]]],
    edges: Sequence[float],
    x_label: str,
    y_label: str,
) -> str:
    """Counts over common bins, one outline per group."""
    figure, axes = _figure(height=2.6, left=0.75, title=title)
    for index, (label, counts) in enumerate(groups):
        colour = COLOURS[index % len(COLOURS)]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(counts, edges, color=colour, linewidth=1.4, label=label)
    _label(axes, x_label, y_label, legend=len(groups) > 1)
    return _svg(figure, name, title)


def _label(axes: "Axes", x_label: str, y_label: str, legend: bool) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.yaxis.set_major_formatter(_short)
    axes.grid(True, axis="y", color=_INK, alpha=0.15, linewidth=0.6)
    if legend:
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8.5)


@_style()
def point_chart(name: str, title: str, groups: Sequence[Line], x_label: str, y_label: str) -> str:
    """Points of measured against predicted, with the line where both are equal."""
    figure, axes = _figure(height=3.3, left=0.75, title=title)
    for index, points in enumerate(groups):
        colour = COLOURS[index % len(COLOURS)]
        axes.scatter(points.x, points.y, s=22, color=colour, alpha=0.85, linewidths=0, label=points.name)
    values = [value for points in groups for value in (*points.x, *points.y)]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low or 1.0)
    ends = [low - margin, high + margin]
    axes.plot(ends, ends, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color=_INK, alpha=0.12, linewidth=0.6)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=8.5)
    return _svg(figure, name, title)


@_style()
def bar_chart(
    name: str,
    title: str,
    labels: Sequence[str],
    groups: Sequence[Bars],
    unit: str = "",
    marker: tuple[float, str] | None = None,
    digits: int = 0,
) -> str:
    """Horizontal bars, first label on top; `marker` draws a dashed line, e.g. at chance level."""
    thickness = 0.8 / len(groups)
    legend = 0.28 if len(groups) > 1 or marker else 0.0
    height = 0.75 + legend + max(0.26, 0.17 * len(groups)) * max(len(labels), 2)
    figure, axes = _figure(height, 0.25 + _EM * max(map(_ems, labels), default=1.0), title, 0.45 + legend)
    furthest = 0.0
    for index, bars in enumerate(groups):
        at = [row - 0.4 + thickness * (index + 0.5) for row in range(len(labels))]
        values = [value or 0.0 for value in bars.values]
        errors = [error or 0.0 for error in bars.errors or [0.0] * len(values)]
        style = {"ecolor": _INK, "elinewidth": 0.8, "capsize": 0}
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(at, values, thickness * 0.9, color=colour, label=bars.name, xerr=errors, error_kw=style)
        for place, value, end in zip(at, bars.values, map(sum, zip(values, errors, strict=True)), strict=True):
            text = " –" if value is None else f" {value:,.{digits}f}"
            axes.text(end, place, text, va="center", ha="left", fontsize=7.5, color=_INK)
            furthest = max(furthest, end)
    if marker:
        axes.axvline(marker[0], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7, label=marker[1])
    axes.set_xlim(0, furthest * 1.13 or 1.0)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.xaxis.set_major_formatter(_short)
    axes.grid(True, axis="x", color=_INK, alpha=0.15, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if legend:
        figure.legend(loc="lower center", frameon=False, labelcolor=_INK, ncols=len(groups) + 1, fontsize=8)
    return _svg(figure, name, title)


def _figure(height: float, left: float, title: str, bottom: float = 0.45) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    # Margins are set in inches: measuring Chinese labels would need fonts this machine may not have.
    figure.subplots_adjust(left=left / _WIDTH, right=1 - 0.2 / _WIDTH, top=1 - 0.3 / height, bottom=bottom / height)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=10, color=_INK, fontweight="bold", x=0)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
        spine.set_alpha(0.4)
    return figure, axes


def _short(value: float, _: float) -> str:
    """A tick label: 1.5 M, 20 k, 0.3."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == ' k' else size):g}{unit}"
    return f"{value:g}"


def _ems(label: str) -> float:
    """Width of a label: Chinese characters are one em wide, others about half."""
    return sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.58 for char in label)


def _svg(figure: "Figure", name: str, title: str) -> str:
    drawn = io.StringIO()
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(drawn, format="svg", transparent=True, metadata=no_metadata)
    return _inline(drawn.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    """A whole SVG document made fit to stand in a page: no prolog, no namespaces, no fixed size, unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*|font: ([\d.]+px) [^;\"]*", lambda m: _inherit(m.group(1)), svg)
    svg = svg.replace(_INK, "currentColor")
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'{head} role="img" aria-label="{label}">{rest}'.strip()


def _inherit(size: str | None) -> str:
    return f"font-size: {size}" if size else "font-family: inherit"
