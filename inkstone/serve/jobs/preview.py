"""An uploaded file as a model will see it, before a task is started: encoded as training encodes it, for a page."""

import threading
from itertools import groupby
from pathlib import Path
from typing import Any

from inkstone.chat import Problem
from inkstone.model.files.directory import read_config
from inkstone.serve.jobs.datasets import fault_lines
from inkstone.serve.jobs.task import METHODS, length_of, template_of
from inkstone.tokenizer import Tokenizer
from inkstone.tune import SFTSettings
from inkstone.tune.preview import Seen, as_the_model_sees

_ENCODED, _LIMIT_S = 2000, 5.0
"""Rows of a file that are encoded, and how long at most."""
_SHOWN, _TOKENS, _FAULTS = 20, 2000, 1000
"""Rows that are sent to the page, tokens of each, and lines of malformed rows."""
_ONE_AT_A_TIME = threading.Lock()


def preview(data: Path, kind: str, base: Path, length: int | None) -> dict[str, Any]:
    """Rows in pieces, counts, lengths and faults. Raises InputError for what a task would refuse."""
    length = length_of(length, read_config(base).max_positions)
    shape = {"sequence_length": length, "batch_tokens": length}
    values = {"inputs": [str(data)], "method": METHODS[kind], "template": template_of(base), **shape}
    settings, faults = SFTSettings.model_validate(values), list[Problem]()

    def note(fault: Problem) -> None:
        faults.extend([fault] if len(faults) < _FAULTS else [])

    with _ONE_AT_A_TIME:
        seen = as_the_model_sees(settings, [data], base, _SHOWN, note, _ENCODED, _LIMIT_S)
    tokenizer = Tokenizer.load(base)
    return {
        "sequence_length": length,
        "counts": seen.counts,
        "lengths": seen.lengths,
        "rows": [_row(row, tokenizer) for row in seen.rows],
        "faults": fault_lines(faults),
    }


def _row(row: Seen, tokenizer: Tokenizer) -> dict[str, Any]:
    """Its text in pieces that are learned or not, control tokens or not."""
    marked = [
        (token, weight > 0, token in tokenizer.control_ids)
        for token, weight in zip(row.ids[:_TOKENS], row.weights, strict=False)
    ]
    pieces: list[dict[str, Any]] = []
    for (learned, control), group in groupby(marked, key=lambda one: one[1:]):
        text = tokenizer.decode([one[0] for one in group], continued=bool(pieces))
        pieces.append({"text": text, "learned": learned, "control": control})
    return {"number": row.number, "side": row.side, "tokens": len(row.ids), "shown": len(marked), "pieces": pieces}
