"""What a user may choose about evaluation: the `[evaluate]` table of a recipe.

The stage functions receive resolved paths beside these settings; the strings here are what a recipe says
(`primer:quiz` is resolved by the pipeline). Everything that changes a score is repeated in scores.json.
"""

from typing import Literal

from pydantic import BaseModel, Field

from inkstone.model.packed.pack import Kind
from inkstone.stage import Machine


class EvaluateSettings(BaseModel, extra="forbid", frozen=True):
    """Which questions are asked, and how."""

    quiz: str = Field("", description="Directory with dev.jsonl and test.jsonl of four-choice questions; empty: none.")
    problems: str = Field("", description="Directory with dev.jsonl and test.jsonl of word problems; empty: none.")
    prompts: str = Field("", description="JSON file with texts to continue and conversations to hold; empty: none.")
    tasks: list[str] = Field([], description="Benchmarks, e.g. cmmlu, mmlu@official; how each is asked: evaluate.md.")
    data: str = Field("", description="Directory with the benchmarks' files, one folder each; or hub.")
    task_limit: int | None = Field(None, ge=1, description="Questions of each benchmark, spread evenly; default: all.")
    shots: int = Field(5, ge=0, description="Worked examples before each question, taken from dev.jsonl in order.")
    max_problems: int = Field(60, ge=0, description="At most this many word problems, spread evenly over the file.")
    max_new_tokens: int = Field(128, ge=1, description="Tokens a model may write for one word problem.")
    sample_tokens: int = Field(64, ge=1, description="Tokens a model may write for one sample or chat turn.")
    heldout: bool = Field(True, description="Measure bits per byte on the held-out documents.")
    heldout_tokens: int = Field(
        200_000, ge=1, description="At most about this many held-out tokens, in documents spread evenly over the split."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format the model is loaded in.")
    quantize: Kind | None = Field(None, description="Weights rounded as they are read, as served with --quantize.")
    device: Machine[Literal["auto", "cpu", "cuda"]] = Field(
        "auto", description="Where to run; auto: cuda where there is one."
    )
    offload: Machine[bool] = Field(False, description="Weights stay in the mapped file and are read as they are used.")
    gpu_memory_gib: Machine[float | None] = Field(
        None, gt=0, description="So much of a GPU; the rest is brought to it."
    )
