"""The stage graph: what a recipe's stages are, which of them are fresh, and how the rest is run.

`stages` builds them from a recipe, `plan` compares them with what is on disk, `run` does the rest through `execute` and
tells it as `events`.
"""

from inkstone.pipeline.check import check_inputs
from inkstone.pipeline.events import Event, EventLog, Observer, read_events
from inkstone.pipeline.execute import checkpoint_of
from inkstone.pipeline.plan import Planned, make_plan
from inkstone.pipeline.run import chosen_stages, run
from inkstone.pipeline.stages import Stage, build_stages

__all__ = [
    "Event",
    "EventLog",
    "Observer",
    "Planned",
    "Stage",
    "build_stages",
    "check_inputs",
    "checkpoint_of",
    "chosen_stages",
    "make_plan",
    "read_events",
    "run",
]
