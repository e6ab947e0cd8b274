"""Which updates reach the weights: none that is not finite, and none whose gradient leaps out of those before it.

    why_not = fault(loss, norm, settings.gradient_clip, settings.spike_ratio, state)    # "": the update is made

A leap is a gradient norm above `gradient_clip` and above `spike_ratio` times the median of the last 128 updates': one
strange batch, which clipping would turn into a full step in its direction (Chowdhery et al. 2022, PaLM, section 5.1,
passed over such batches by hand). After `PATIENCE` updates in a row that were not made the loop goes back to its last
checkpoint and passes over the rows since. Norm and loss are those of all ranks, so all ranks agree.
"""

import math
from statistics import median

from inkstone.errors import InkstoneError
from inkstone.train.checkpoint import TrainState

PATIENCE = 20
ROLLBACKS = 3
_WINDOW, _ENOUGH = 128, 32


def fault(loss: float, norm: float, clip: float, spike_ratio: float, state: TrainState) -> str:
    """Why this update is not to be made, or "". A good one's norm enters the window, which a checkpoint keeps."""
    if not (math.isfinite(norm) and math.isfinite(loss)):
        return "loss or gradient is not finite"
    if spike_ratio and len(state.norms) >= _ENOUGH:
        usual = median(state.norms)
        if norm > max(clip, spike_ratio * usual):
            return f"gradient norm {norm:.3g} leaps out of a median of {usual:.3g}"
    state.norms = [*state.norms, norm][-_WINDOW:]
    return ""


def out_of_patience(state: TrainState, why: str) -> InkstoneError:
    """What ends a run that going back did not help."""
    back = f" after going back {state.rollbacks} times" if state.rollbacks else ""
    return InkstoneError(
        f"step {state.step}: {state.skipped_in_a_row} updates in a row were not made{back} (the last one: {why}): "
        'lower learning_rate, or set dtype = "float32"; the last checkpoint is kept'
    )


def set_back(found: TrainState, now: TrainState, rows_per_step: int) -> TrainState:
    """The checkpoint's state, to go on from: rows drawn since are passed over, counts go on."""
    found.skipped_rows = [*found.skipped_rows, [found.rows_behind(rows_per_step), now.rows_behind(rows_per_step)]]
    found.skipped, found.rollbacks = now.skipped, now.rollbacks + 1
    return found
