"""The recipe's [mixture] section: how the weights of the domains are chosen."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inkstone.stage import Machine
from inkstone.train import OnlineSettings

Kind = Literal["natural", "stratified", "temperature", "fixed", "learned"]
Grain = Literal["lang x source", "source", "lang"]


class ProxySettings(BaseModel):
    """`[mixture.proxy]`: the tiny models that mixtures are tried on; about 0.2 M parameters and 200 K tokens each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int | None = Field(None, ge=8, description="mixtures to fit the law on; default: 3 x domains, at least 24")
    checks: int = Field(6, ge=0, description="further mixtures, only to compare the law's prediction with")
    compare_seeds: int = Field(3, ge=0, description="runs of the learned, natural and stratified mix with fresh seeds")
    hidden_size: int = Field(64, ge=8, description="width of the proxy")
    num_layers: int = Field(2, ge=1, description="its decoder blocks")
    num_heads: int = Field(2, ge=1, description="its query heads")
    sequence_length: int = Field(128, ge=8, description="tokens per row")
    batch_tokens: int = Field(512, ge=8, description="tokens per step")
    steps: int = Field(400, ge=1, description="optimizer steps of a proxy")
    learning_rate: float = Field(1e-2, gt=0, description="peak of the schedule")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the arithmetic; never chosen by measuring")
    heldout_rows: int = Field(64, ge=1, description="held-out rows per domain to measure on, at most")
    workers: Machine[int] = Field(1, ge=1, description="proxies that run at once, one thread each")


class MixtureSettings(BaseModel):
    """`[mixture]`: without this section every document is read once per epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = Field("learned", description="where the weights come from")
    keep: Literal["measured", "learned"] = Field(
        "measured",
        description='kind = "learned": write the mix that measured best with fresh seeds, or always the learned',
    )
    domain: Grain = Field("lang x source", description="documents that count as one domain")
    groups: dict[str, list[str]] = Field(
        {}, description='domains made of several: {"zh verse" = ["zh/poetry*"]}; patterns on "lang/source"'
    )
    min_domain_share: float = Field(
        0.01, ge=0, lt=1, description="domains with a smaller share of the tokens are merged into lang/rest"
    )
    weights: dict[str, float] = Field({}, description='the weights of kind = "fixed", one for every domain')
    temperature: float = Field(0.5, gt=0, le=1, description='kind = "temperature": natural share to this power')
    targets: dict[str, float] = Field({}, description="how much each domain's loss counts; 1 where not named")
    naturalness: float = Field(0.02, ge=0, description="nats of loss paid per nat of KL(weights || natural)")
    repetition_cap: float = Field(4.0, gt=0, description="no domain is read more often than this in the whole run")
    budget_tokens: int | None = Field(None, ge=1, description="tokens of the whole run; default: what [pretrain] takes")
    seed: int = Field(1, ge=0, description="of the drawn mixtures and of the proxies")
    proxy: ProxySettings = ProxySettings()
    online: OnlineSettings | None = Field(None, description="go on reweighting while training, from these weights")

    @model_validator(mode="after")
    def _fits(self) -> "MixtureSettings":
        if self.kind == "fixed" and not self.weights:
            raise ValueError('kind = "fixed" needs weights = {domain = share, ...}')
        if self.kind != "fixed" and self.weights:
            raise ValueError(f'weights are for kind = "fixed", not "{self.kind}": remove one of them')
        if min([*self.weights.values(), *self.targets.values()], default=0) < 0:
            raise ValueError("weights and targets cannot be negative")
        return self
