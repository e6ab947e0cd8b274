"""A flow drawing as inline SVG: bands (sources or languages) run through the stages, what is removed drops out below.

matplotlib's Sankey cannot stack bands, so this is drawn here: a hundred lines of rectangles and curves, coloured like
the page's other charts and readable in light and dark. Every band and drop has a title that a pointer shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from inkstone.report.charts import COLOURS

_LEFT, _RIGHT, _TOP = 190.0, 96.0, 34.0
_WIDTH, _HEIGHT, _NODE = 1000.0, 270.0, 9.0
_GAP, _DROP = 46.0, 60.0  # between the trunk and what was removed; room for what was removed and its labels
_THINNEST = 1.0  # a single document of a million must still be seen


@dataclass(frozen=True)
class Band:
    """A source or language: how much came in, and how much each stage removed from it."""

    name: str
    amount: int
    removed: Sequence[int]


def sankey(name: str, title: str, stages: Sequence[str], bands: Sequence[Band], unit: str) -> str:
    """The drawing; `stages` name what `Band.removed` counts, in order."""
    total = sum(band.amount for band in bands)
    scale = _HEIGHT / max(total, 1)
    places = [_LEFT + (_WIDTH - _LEFT - _RIGHT) * column / (len(stages) + 1) for column in range(len(stages) + 2)]
    left = {band.name: band.amount for band in bands}
    parts: list[str] = []
    tops = _stack(left, bands, scale)
    parts += [_node(places[0], tops, left, bands, scale)]
    lost = 0
    for column, stage in enumerate(stages):
        here, there = places[column], places[column + 1]
        after = {band.name: left[band.name] - band.removed[column] for band in bands}
        tops_after = _stack(after, bands, scale)
        drop_at = _TOP + _HEIGHT + _GAP
        for colour, band in _coloured(bands):
            top, kept = tops[band.name], after[band.name] * scale
            hint = f"{band.name}: {after[band.name]:,} of {left[band.name]:,} {unit} left after {stage}"
            parts.append(_ribbon(here + _NODE, top, there, tops_after[band.name], kept, kept, colour, 0.55, hint))
            removed = band.removed[column]
            if removed > 0:
                thick = max(removed * scale, _THINNEST)
                hint = f"{band.name}: {stage} removed {removed:,} {unit}"
                parts.append(
                    _ribbon(here + _NODE, top + kept, there, drop_at, removed * scale, thick, colour, 0.9, hint)
                )
                drop_at += thick
        gone = sum(band.removed[column] for band in bands)
        lost += gone
        parts.append(_label(there + _NODE / 2, drop_at + 15, f"{stage}", "middle", strong=True))
        parts.append(_label(there + _NODE / 2, drop_at + 29, f"−{_short(gone)} · {_share(gone, total)}", "middle"))
        left, tops = after, tops_after
        parts.append(_node(there, tops, left, bands, scale))
        parts.append(_label(there + _NODE / 2, _TOP - 8, _short(sum(left.values())), "middle"))
    parts.append(_label(places[0] + _NODE / 2, _TOP - 8, f"{_short(total)} {unit}", "middle"))
    end = places[-1]
    kept_total = total - lost
    for colour, band in _coloured(bands):
        thick = left[band.name] * scale
        hint = f"{band.name}: {left[band.name]:,} {unit} kept"
        parts.append(
            _ribbon(places[-2] + _NODE, tops[band.name], end, tops[band.name], thick, thick, colour, 0.55, hint)
        )
        middle = _TOP + 4 + (tops[band.name] - _TOP) + thick / 2
        if thick >= 11:
            parts.append(_label(end + 6, middle, _share(left[band.name], max(band.amount, 1)), "start"))
    parts.append(_label(end + 2, _TOP - 8, f"kept {_share(kept_total, total)}", "end", strong=True))
    parts += _names(bands, {band.name: band.amount for band in bands}, scale, places[0])
    height = _TOP + _HEIGHT + _GAP + _DROP
    said = escape(f"{title}: {_short(total)} {unit} in, {_short(kept_total)} kept", quote=True)
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{said}" id="{name}" class="sankey">'
        + "".join(parts)
        + "</svg>"
    )


def _coloured(bands: Sequence[Band]) -> list[tuple[str, Band]]:
    return [(COLOURS[place % len(COLOURS)], band) for place, band in enumerate(bands)]


def _stack(amounts: dict[str, int], bands: Sequence[Band], scale: float) -> dict[str, float]:
    """Top edge of every band."""
    tops, at = {}, _TOP
    for band in bands:
        tops[band.name] = at
        at += amounts[band.name] * scale
    return tops


def _node(x: float, tops: dict[str, float], amounts: dict[str, int], bands: Sequence[Band], scale: float) -> str:
    return "".join(
        f'<rect x="{x:.1f}" y="{tops[band.name]:.1f}" width="{_NODE}" '
        f'height="{max(amounts[band.name] * scale, 0.3):.1f}" fill="{colour}"/>'
        for colour, band in _coloured(bands)
    )


def _ribbon(
    x0: float, y0: float, x1: float, y1: float, thick0: float, thick1: float, colour: str, opacity: float, hint: str
) -> str:
    """A curved band from (x0, y0) to (x1, y1), as thick as given at each end."""
    middle = (x0 + x1) / 2
    path = (
        f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}V{y1 + thick1:.1f}"
        f"C{middle:.1f} {y1 + thick1:.1f} {middle:.1f} {y0 + thick0:.1f} {x0:.1f} {y0 + thick0:.1f}Z"
    )
    return f'<path d="{path}" fill="{colour}" fill-opacity="{opacity}"><title>{escape(hint)}</title></path>'


def _names(bands: Sequence[Band], amounts: dict[str, int], scale: float, x: float) -> list[str]:
    """Band names on the left, pushed apart where bands are thin."""
    tops, parts, last = _stack(amounts, bands, scale), [], _TOP - 13.0
    for colour, band in _coloured(bands):
        wanted = tops[band.name] + amounts[band.name] * scale / 2 + 4
        at = max(wanted, last + 13)
        last = at
        parts.append(_label(x - 8, at, f"{_cut(band.name)}  {_short(band.amount)}", "end"))
        parts.append(f'<rect x="{x - 5:.1f}" y="{at - 7:.1f}" width="3" height="7" fill="{colour}"/>')
    return parts


def _label(x: float, y: float, text: str, anchor: str, strong: bool = False) -> str:
    weight = ' font-weight="600"' if strong else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11.5" fill="currentColor"{weight}>'
        f"{escape(text)}</text>"
    )


def _cut(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def _short(value: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:,}"


def _share(part: int, whole: int) -> str:
    percent = 100 * part / max(whole, 1)
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"
