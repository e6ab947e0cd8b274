"""The settings every kind of training shares; [pretrain] adds what it starts from, [sft] its data.

Sizes are in tokens, because tokens are what is paid for: a step sees `batch_tokens`, in forwards of
`micro_batch_tokens`, in rows of `sequence_length`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inkstone.stage import Machine


class TrainSettings(BaseModel):
    """How long, how fast, in which arithmetic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence_length: int = Field(256, ge=8, description="tokens per row")
    batch_tokens: int = Field(8192, ge=8, description="tokens per optimizer step, over all ranks")
    micro_batch_tokens: Machine[int | None] = Field(None, ge=8, description="tokens per forward; default: batch_tokens")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps, whatever `epochs` says")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule")
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="of the peak, reached at the last step")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up")
    schedule: Literal["cosine", "linear", "wsd"] = Field(
        "cosine", description="shape of the decay after the warm-up; wsd: stable, then down over `decay_share`"
    )
    decay_share: float = Field(0.2, gt=0, le=1, description="wsd: share of the steps over which the rate falls")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices inside the blocks, at the same rate; fewer steps to the same loss"
    )
    embedding_rate_ratio: float = Field(
        1.0,
        gt=0,
        description="rate of embedding, head, norms, a prefix's numbers and PPO's value head, in learning rates; small "
        "models gain by 3 to 8",
    )
    weight_decay: float = Field(0.1, ge=0, description="on matrices only")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW, decay of the mean of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW, decay of the mean of their squares")
    gradient_clip: float = Field(1.0, gt=0, description="largest global gradient norm")
    spike_ratio: float = Field(
        10.0, ge=0, description="an update whose gradient norm exceeds this many usual ones is not made; 0: all are"
    )
    seed: int = Field(1, description="of the initial weights and of the data order")
    device: Machine[str] = Field("auto", description='"auto": a GPU if there is one, else the CPU')
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the arithmetic; weights and optimizer stay float32. auto: measured on this machine"
    )
    compile: Machine[Literal["auto", "on", "off"]] = Field(
        "auto", description="torch.compile; auto: where a C++ compiler (or a GPU) is found and the run is long enough"
    )
    shard: Machine[int] = Field(
        1, ge=1, description="processes that hold one copy of the weights together (FSDP); the others have copies"
    )
    tensor: Machine[int] = Field(
        1, ge=1, description="processes that split each layer's heads, MLP and experts; neighbours, on one host"
    )
    recompute: Machine[bool] = Field(
        False,
        description="activation checkpointing: keep each block's input only, for less memory and a third more work",
    )
    log_steps: Machine[int] = Field(10, ge=1, description="steps between rows of metrics.jsonl")
    heldout_steps: Machine[int] = Field(100, ge=1, description="steps between held-out losses")
    checkpoint_steps: Machine[int] = Field(100, ge=1, description="steps between checkpoints a killed run resumes from")

    @model_validator(mode="after")
    def _sizes_fit(self) -> "TrainSettings":
        problems = []
        if self.batch_tokens % self.micro_tokens:
            problems.append(
                f"batch_tokens = {self.batch_tokens} is not a multiple of micro_batch_tokens = {self.micro_tokens}"
            )
        if self.micro_tokens % self.sequence_length:
            problems.append(
                f"{'micro_batch_tokens' if self.micro_batch_tokens else 'batch_tokens'} = {self.micro_tokens} "
                f"is not a multiple of sequence_length = {self.sequence_length}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def micro_tokens(self) -> int:
        return self.micro_batch_tokens or self.batch_tokens

    @property
    def rows_per_step(self) -> int:
        return self.batch_tokens // self.sequence_length

    def steps(self, rows_per_epoch: int) -> int:
        """Optimizer steps for the data at hand."""
        wanted = max(1, round(self.epochs * rows_per_epoch / self.rows_per_step))
        return min(wanted, self.max_steps) if self.max_steps else wanted


class PretrainSettings(TrainSettings):
    """`[pretrain]`: from fresh weights, or on from those of a model that exists."""

    base: str | None = Field(
        None,
        description="a model directory to go on from, of any family; its shape is taken, and it grows rows for tokens "
        "that [tokenizer.extend] adds; default: fresh weights of [model]",
    )
