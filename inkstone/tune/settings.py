"""The recipe's [sft] section: everything a training run has, plus the conversations and how they are written."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from inkstone.chat import TEMPLATES
from inkstone.train import TrainSettings
from inkstone.tune.adapter import LoraSettings, PrefixSettings
from inkstone.tune.grpo import GrpoSettings
from inkstone.tune.kto import KtoSettings
from inkstone.tune.merge import MergeSettings
from inkstone.tune.ppo import PpoSettings
from inkstone.tune.preference import PreferenceSettings


class SFTSettings(TrainSettings):
    """Tuning on conversations, of which the assistant's tokens are learned, or on pairs of a better and a worse
    answer."""

    inputs: list[str] = Field(
        [],
        description='files or globs of rows; "primer:chats" is the embedded set; "data/dataset_info.json#NAME" is an '
        "entry of LLaMA-Factory's; merge has none",
    )
    weights: dict[str, float] = Field(
        {}, description='sft: how often a file\'s rows are seen in an epoch, by pattern: {"alpaca*" = 0.5, "own*" = 2}'
    )
    texts: list[str] = Field([], description='sft: files of {"text": ...} learned whole beside: a pretraining share')
    method: Literal["sft", "preference", "kto", "grpo", "reward", "ppo", "merge"] = Field(
        "sft",
        description="conversations; preference pairs (DPO ...); answers that are good or bad; questions with answers "
        "that a rule checks; pairs, for a reward model; questions that a reward model or rules judge; no rows, for a "
        "merge of models",
    )
    preference: PreferenceSettings = Field(PreferenceSettings(), description="the loss of pairs")
    kto: KtoSettings = Field(KtoSettings(), description="the loss of verdicts")
    grpo: GrpoSettings = Field(GrpoSettings(), description="answers and their rewards")
    merge: MergeSettings = Field(MergeSettings(), description="what is joined with the base, and how")
    ppo: PpoSettings = Field(PpoSettings(), description="answers, their reward and how far a step may go")
    adapter: Literal["none", "lora", "prefix"] = Field(
        "none",
        description="lora: train a low-rank adapter, kept beside the merged model; prefix: P-tuning v2, kept beside "
        "the base's weights",
    )
    lora: LoraSettings = Field(LoraSettings(), description="the adapter's size and place")
    prefix: PrefixSettings = Field(PrefixSettings(), description="the prefix's length")
    base: str = Field("pretrain", description='"pretrain": the recipe\'s own model; else a model directory')
    template: str = Field(
        "chatml",
        description='how a conversation becomes tokens, kept in the model: a name from "inkstone template list", '
        'or "auto" for the one that the base directory says',
    )
    on_problem: Literal["refuse", "skip"] = Field(
        "refuse", description="malformed rows: refuse all with a list, or skip and count them"
    )
    epochs: float = Field(2.0, gt=0, description="passes over the conversations")
    learning_rate: float = Field(3e-4, gt=0, description="peak of the schedule")
    bpe_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that a merge is passed over in training texts, drawn anew in every epoch (Huozi 3.5: 0.1)",
    )
    neftune_alpha: float = Field(
        0.0, ge=0, description="sft: noise on embeddings, +-alpha / sqrt(length x width) of each document (5 is usual)"
    )
    heldout_fraction: float = Field(0.02, ge=0, lt=1, description="conversations kept out for the held-out loss")
    heldout: list[str] = Field([], description="files of rows to test on instead, before the training too")

    @field_validator("template")
    @classmethod
    def _known_template(cls, name: str) -> str:
        if name != "auto" and name not in TEMPLATES:
            raise ValueError(f"there is no such template; known are auto, {', '.join(TEMPLATES)}")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> "SFTSettings":
        if (self.method == "merge") != (not self.inputs):
            raise ValueError("inputs is missing" if not self.inputs else "a merge has no inputs: it learns nothing")
        if (self.method == "merge") != bool(self.merge.models):
            raise ValueError('method = "merge" and merge.models, the models to join with the base, go together')
        if self.heldout and self.method not in ("sft", "preference"):
            raise ValueError(f'heldout has no part in method = "{self.method}": set heldout_fraction')
        for name in ("neftune_alpha", "weights", "texts"):
            if getattr(self, name) and self.method != "sft":
                raise ValueError(f'{name} has no part in method = "{self.method}": leave it out')
        for name, unset in (("lora", LoraSettings()), ("prefix", PrefixSettings())):
            if getattr(self, name) != unset and self.adapter not in (name, "none"):
                raise ValueError(f'{name} has no part in adapter = "{self.adapter}": a stage trains one adapter')
        if any(weight <= 0 for weight in self.weights.values()):
            raise ValueError("weights must be above 0: leave a file out of inputs instead")
        return self

    @property
    def adapted(self) -> LoraSettings | PrefixSettings | None:
        """What the stage trains beside frozen weights."""
        return self.lora if self.adapter == "lora" else self.prefix if self.adapter == "prefix" else None
