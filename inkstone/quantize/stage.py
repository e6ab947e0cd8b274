"""The quantize stage: the run's last model in fewer bits, calibrated on the run's own tokens; evaluated beside it.

[quantize]
method = "gptq"
bits = 4
"""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from inkstone.errors import InputError
from inkstone.quantize.model import calibration_rows, check, quantize_into
from inkstone.quantize.settings import LayoutName, Method, Quantization
from inkstone.stage import Job, Result, StageKind
from inkstone.tokenizer import Tokenizer, open_shards


class QuantizeSettings(BaseModel):
    """`[quantize]`: what `inkstone quantize` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(
        "", description="an earlier stage or a model directory; default: the last stage that makes a model"
    )
    method: Method = Field("gptq", description="rtn (round to nearest) and nf4 need no text")
    bits: int = Field(4, description="4 or 8")
    group_size: int = Field(128, description="columns that share a scale; -1: whole rows; nf4 has 64")
    layout: LayoutName = Field("compressed-tensors", description="how the weights are written down")
    act_order: bool = Field(False, description="gptq: round first the columns that matter most")
    samples: int = Field(128, ge=8, description="rows of calibration, spread over the run's training tokens")
    length: int = Field(512, ge=16, description="tokens in each")

    @property
    def how(self) -> Quantization:
        """As the room's functions take it."""
        named = (self.method, self.bits, self.group_size, self.layout, self.act_order)
        return Quantization(*named, samples=self.samples, length=self.length)

    @model_validator(mode="after")
    def _possible(self) -> "QuantizeSettings":
        if problems := self.how.problems():
            raise ValueError("; ".join(problem.replace("--", "").replace("-size", "_size") for problem in problems))
        return self


def _run(job: Job) -> Result:
    settings = job.of(QuantizeSettings)
    made = [name for name, kind in job.earlier.items() if kind.makes_model]
    if not (settings.base or made):
        raise InputError("[quantize] has no model: set base, or train one in the recipe")
    name = settings.base or made[-1]
    source = job.run_dir / name if name in job.earlier else Path(name)
    check(source, settings.how)
    rows_BT = _rows(job, settings.how, source) if settings.how.calibrated else None
    quantize_into(source, job.output, settings.how, rows_BT, job.scratch / "blocks", job.progress)
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6 for folder in (source, job.output)]
    return {"base": name, "size_mb": round(sizes[1], 2), "base_size_mb": round(sizes[0], 2)}


def _rows(job: Job, how: Quantization, source: Path) -> Tensor:
    """Calibration from documents of the training split, in a drawn order."""
    if "tokens" not in job.earlier:
        raise InputError(
            f'[quantize] method = "{how.method}" is calibrated on the run\'s tokens, and it has none: '
            "add [corpus] and [tokenizer], or use inkstone quantize --calibration FILE"
        )
    shards = open_shards(job.run_dir / "tokens", "train", Tokenizer.load(source).fingerprint)
    ids: list[int] = []
    for document in np.random.default_rng(0).permutation(len(shards)):
        ids += shards.document(int(document)).tolist()
        if len(ids) >= how.samples * how.length:
            break
    return calibration_rows(ids, how, "the run's training split")


QUANTIZE = StageKind(
    "quantize",
    ("quantize",),
    _run,
    needs=lambda settings, earlier: [
        name for name, kind in earlier.items() if name == "tokens" or (kind.makes_model and settings.base in ("", name))
    ],
    inputs=lambda settings, earlier: [settings.base] if settings.base and settings.base not in earlier else [],
    makes_model=True,
)
