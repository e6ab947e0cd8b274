"""Rows by the weights of a mixture: each row comes from one domain, domains take turns in proportion to their weights.

    mixture = read_mixture(Path("runs/own/mixture/mixture.json"))
    rows = MixedCorpus(shards, documents_of(shards, mixture), list(mixture.weights.values()), 256, seed=1)

Row n's domain, and how many rows that domain gave before, are a function of n and the weights; inside a domain rows are
those of a `PackedCorpus`: every token once per pass. So exact resume and elastic world size hold as without a mixture.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inkstone.errors import InputError
from inkstone.tokenizer import TokenShards
from inkstone.tokenizer.token_shards import Group
from inkstone.train.batches import PackedCorpus, Row

_BLOCK_ROWS = 1 << 16
"""Rows that are scheduled together: weights are kept to 1/65536, and a step's shares to about one row."""


class OnlineSettings(BaseModel):
    """`[mixture.online]`: the weights of the mixture are where the run starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    smoothing: float = Field(0.9, ge=0, lt=1, description="share of the old reward that is kept each step")
    floor_weight: float = Field(0.02, ge=0, lt=1, description="no domain's weight falls below this")
    warmup_steps: int = Field(
        20, ge=0, description="steps with the starting weights, in which only rewards are learned"
    )
    turn_rows: int | None = Field(None, ge=1, description="rows a domain gives at a turn; default: an eighth of a step")


@dataclass(frozen=True)
class Mixture:
    """What share of the tokens each domain gives, and which (lang, source) groups of documents it is made of."""

    weights: dict[str, float]
    groups: dict[str, list[Group]]
    online: OnlineSettings | None = None


def read_mixture(path: Path) -> Mixture:
    """Read mixture.json. Weights are normalised; without "domains" a domain's name is "lang/source".

    Raises InputError with what is wrong with the file.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in facts["weights"].items()}
        domains = facts.get("domains") or {name: {"groups": [name.split("/", 1)]} for name in weights}
        groups = {name: [(str(lang), str(source)) for lang, source in domains[name]["groups"]] for name in weights}
        online = OnlineSettings.model_validate(facts["online"]) if facts.get("online") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InputError(
            f'{path} is no mixture ({error}): expected {{"weights": {{"zh/wiki": 0.5, ...}}}}, as '
            "`inkstone mixture fit` writes it"
        ) from error
    total = sum(weights.values())
    if not (math.isfinite(total) and total > 0 and min(weights.values()) >= 0):
        raise InputError(f"{path}: weights must be numbers of 0 or more, and one of them above 0")
    return Mixture({name: weight / total for name, weight in weights.items()}, groups, online)


def documents_of(shards: TokenShards, mixture: Mixture, strict: bool = True) -> list[NDArray[np.int64]]:
    """The documents of each domain, in the order of the mixture's weights.

    Where `strict`, raises InputError when documents belong to no domain, or a domain with a weight has none.
    """
    if len(shards) and not len(shards.group_of):
        raise InputError("the token shards do not tell their documents' sources: delete them and encode again")
    domain_of = {group: place for place, name in enumerate(mixture.weights) for group in mixture.groups[name]}
    problems = [
        f"{lang}/{source} belongs to no domain" for lang, source in shards.groups if (lang, source) not in domain_of
    ]
    table = np.array([domain_of.get(group, -1) for group in shards.groups], np.int64)
    places = table[shards.group_of] if len(shards) else np.zeros(0, np.int64)
    found = [np.flatnonzero(places == place) for place in range(len(mixture.weights))]
    for (name, weight), documents in zip(mixture.weights.items(), found, strict=True):
        if weight > 0 and not len(documents):
            problems.append(f'domain "{name}" has weight {weight:.3g} but no document in the corpus')
    if problems and strict:
        raise InputError([f"mixture: {problem}: fit the mixture again on this corpus" for problem in problems])
    return found


class MixedCorpus:
    """Rows of `sequence_length` tokens from several domains; an epoch has as many tokens as the corpus.

    With `part` below 1 each domain is cut down to that part of its rows.
    """

    def __init__(
        self,
        shards: TokenShards,
        documents: Sequence[NDArray[np.int64]],
        weights: Sequence[float],
        sequence_length: int,
        seed: int,
        part: float = 1.0,
    ) -> None:
        self.weights, self.seed = np.asarray(weights, np.float64), seed
        rows = [int(shards.lengths[mine].sum()) // sequence_length for mine in documents]
        self.domains = [
            PackedCorpus(shards, sequence_length, seed, mine, max(1, math.ceil(part * has))) if weight > 0 else None
            for mine, weight, has in zip(documents, weights, rows, strict=True)
        ]
        self.rows_per_epoch = max(1, sum(rows))
        self._quotas = quotas(self.weights, _BLOCK_ROWS)
        self._block = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._rank: NDArray[np.int64] = np.empty(0, np.int64)

    def row(self, epoch: int, index: int) -> Row:
        block, place = divmod(epoch * self.rows_per_epoch + index, _BLOCK_ROWS)
        self._schedule(block)
        domain = int(self._order[place])
        return self.domain_row(domain, block * int(self._quotas[domain]) + int(self._rank[place]))

    def domain_row(self, domain: int, number: int) -> Row:
        """The `number`-th row (from 0) that `domain` gives, pass after pass over its documents."""
        rows = self.domains[domain]
        assert rows is not None, "a domain without weight gives no rows"
        return rows.row(*divmod(number, rows.rows_per_epoch))

    def domains_of(self, numbers: range) -> list[int]:
        """The domains of consecutive rows, counted over all epochs."""
        found = []
        for number in numbers:
            block, place = divmod(number, _BLOCK_ROWS)
            self._schedule(block)
            found.append(int(self._order[place]))
        return found

    def _schedule(self, block: int) -> None:
        """Spread each domain's rows evenly over the block, from a phase that the seed and the block decide."""
        if block == self._block:
            return
        phases = np.random.default_rng((self.seed, block)).random(len(self._quotas))
        rank = np.concatenate([np.arange(quota) for quota in self._quotas])
        domain = np.repeat(np.arange(len(self._quotas)), self._quotas)
        order = np.argsort((rank + phases[domain]) / self._quotas[domain], kind="stable")
        self._order, self._rank, self._block = domain[order], rank[order], block


def quotas(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """`total` divided by weights into whole numbers: largest remainders, earlier domains first."""
    exact = weights / weights.sum() * total
    whole = np.floor(exact).astype(np.int64)
    left = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
