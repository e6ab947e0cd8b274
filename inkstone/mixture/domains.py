"""Which documents are a domain: language x source by default, with small domains merged and groups a user names."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from inkstone.errors import InputError
from inkstone.mixture.settings import MixtureSettings
from inkstone.tokenizer import TokenShards
from inkstone.tokenizer.token_shards import Group


@dataclass(frozen=True)
class Domain:
    """A name, the (lang, source) groups it is made of, and its tokens in the training split."""

    name: str
    groups: list[Group]
    tokens: int


def find_domains(shards: TokenShards, settings: MixtureSettings) -> list[Domain]:
    """The domains of the training split, by name.

    Raises InputError when a pattern matches nothing, or fewer than two domains are left.
    """
    if not len(shards.group_of):
        raise InputError("the token shards do not tell their documents' sources: delete them and encode again")
    tokens = np.bincount(shards.group_of, weights=shards.lengths, minlength=len(shards.groups)).astype(np.int64)
    names = [_named(group, settings) for group in shards.groups]
    totals: dict[str, int] = {}
    for name, count in zip(names, tokens.tolist(), strict=True):
        totals[name] = totals.get(name, 0) + count
    small = {name for name, total in totals.items() if total < settings.min_domain_share * tokens.sum()}
    domains: dict[str, list[int]] = {}
    for place, ((lang, _), name) in enumerate(zip(shards.groups, names, strict=True)):
        merged = f"{lang}/rest" if name in small and name not in settings.groups else name
        domains.setdefault(merged, []).append(place)
    _check(settings, shards.groups, domains)
    return [
        Domain(name, [shards.groups[place] for place in places], int(tokens[places].sum()))
        for name, places in sorted(domains.items())
    ]


def _named(group: Group, settings: MixtureSettings) -> str:
    """The domain of a group before merging: the first of the user's patterns, else by the grain asked for."""
    lang, source = group
    for name, patterns in settings.groups.items():
        if any(fnmatchcase(f"{lang}/{source}", pattern) for pattern in patterns):
            return name
    return {"lang": lang, "source": source, "lang x source": f"{lang}/{source}"}[settings.domain]


def _check(settings: MixtureSettings, groups: Sequence[Group], domains: dict[str, list[int]]) -> None:
    problems = [
        f'[mixture] groups "{name}" matches no document: patterns are matched with "lang/source", e.g. '
        f'"{"/".join(groups[0])}"'
        for name in settings.groups
        if name not in domains
    ]
    for key in ("targets", "weights"):
        given = getattr(settings, key)
        unknown = [name for name in given if name not in domains]
        if unknown:
            problems.append(
                f"[mixture] {key}: there is no domain {', '.join(unknown)}; known: {', '.join(sorted(domains))}"
            )
    if settings.kind == "fixed" and (missing := [name for name in domains if name not in settings.weights]):
        problems.append(f"[mixture] weights: {', '.join(sorted(missing))} missing; give 0 to leave a domain out")
    if len(domains) < 2:
        problems.append(f"[mixture] the corpus has only one domain, {', '.join(domains)}: there is nothing to weigh")
    if problems:
        raise InputError(problems)
