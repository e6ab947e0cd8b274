"""The stage graph: what a recipe's stages are, which of them are fresh, and how the rest is run.

`stages` builds them from a recipe, `plan` compares fingerprints with what is on disk, `execute` does the rest.
"""

from inkstone.pipeline.check import check_inputs
from inkstone.pipeline.execute import execute, locked, tidy
from inkstone.pipeline.plan import Planned, make_plan
from inkstone.pipeline.stages import Stage, build_stages

__all__ = ["Planned", "Stage", "build_stages", "check_inputs", "execute", "locked", "make_plan", "tidy"]
