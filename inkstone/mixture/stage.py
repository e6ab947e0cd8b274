"""The mixture stage: token shards in, mixture.json out, which training (and tokenizer training) reads.

For kind = "learned" the file also has the evidence: the law and its transfer table, predicted against measured losses
on mixtures the fit has not seen, and the learned, natural and stratified mix trained with fresh seeds, side by side. Of
these the one that measured best is what training gets: a law may be wrong, and then its weights do not go unnoticed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from inkstone.mixture.domains import Domain, find_domains
from inkstone.mixture.law import Array, Laws, fit_laws, rank_correlation
from inkstone.mixture.optimum import best_weights, capped, repetition_caps
from inkstone.mixture.proxies import Bench, Trial, check_heldout, draw_mixtures, run_trials
from inkstone.mixture.settings import MixtureSettings
from inkstone.progress import Progress
from inkstone.stage import Job, Result, StageKind
from inkstone.storage import write_json, write_manifest
from inkstone.tokenizer import open_shards
from inkstone.train import Mixture, TrainSettings

_PROXIES_PER_DOMAIN, _FEWEST_PROXIES = 3, 24
_FRESH_SEED = 1000
"""Comparison runs use seeds from here on, which no proxy of the fit has used."""


def fit_mixture(
    settings: MixtureSettings,
    tokens_dir: Path,
    budget_tokens: int | None,
    proxies: Path,
    output: Path,
    progress: Progress,
) -> dict[str, object]:
    """Choose the weights and write `output`/mixture.json; `proxies` keeps finished proxy runs across calls.

    `budget_tokens` is what training will take (default: one pass). Raises InputError where domains, caps or held-out
    text do not allow a mixture.
    """
    shards = open_shards(tokens_dir, "train")
    domains = find_domains(shards, settings)
    tokens = np.array([domain.tokens for domain in domains], np.float64)
    budget = settings.budget_tokens or budget_tokens or int(tokens.sum())
    caps = repetition_caps(tokens, settings.repetition_cap, budget)
    natural = tokens / tokens.sum()
    mixes = {"natural": capped(natural, caps), "stratified": capped(np.full(len(domains), 1 / len(domains)), caps)}
    evidence: dict[str, object] = {}
    chosen: str = settings.kind
    if settings.kind == "learned":
        mixes["learned"], evidence = _learn(settings, domains, mixes, caps, budget, tokens_dir, proxies, progress)
        if settings.keep == "measured":
            chosen = _best_measured(evidence["compared"], list(mixes)) or chosen
    elif settings.kind == "temperature":
        mixes["temperature"] = capped(natural**settings.temperature, caps)
    elif settings.kind == "fixed":
        given = np.array([settings.weights[domain.name] for domain in domains])
        mixes["fixed"] = given / given.sum()
        if (mixes["fixed"] > caps * (1 + 1e-9)).any():
            progress.note(f"fixed weights read some domains more than repetition_cap = {settings.repetition_cap} times")
    facts = {
        "kind": settings.kind,
        "chosen": chosen,
        "weights": _named(domains, mixes[chosen]),
        "domains": {
            domain.name: {
                "groups": [list(group) for group in domain.groups],
                "tokens": domain.tokens,
                "cap": float(cap),
            }
            for domain, cap in zip(domains, caps, strict=True)
        },
        "budget_tokens": budget,
        "repetition_cap": settings.repetition_cap,
        "mixes": {name: _named(domains, mix) for name, mix in mixes.items()},
        **({"online": settings.online.model_dump()} if settings.online else {}),
        **evidence,
    }
    write_json(output / "mixture.json", facts)
    write_manifest(output, {"kind": "mixture"})
    shares = ", ".join(f"{name} {share:.3f}" for name, share in _named(domains, mixes[chosen]).items())
    for sentence in [*comparison(facts), f"weights of the {chosen} mix: {shares}"]:
        progress.note(sentence)
    found = {"kind": settings.kind, "chosen": chosen, "weights": facts["weights"], "budget_tokens": budget}
    return {**found, **_verdict(facts)}


def _learn(
    settings: MixtureSettings,
    domains: list[Domain],
    mixes: dict[str, Array],
    caps: Array,
    budget: int,
    tokens_dir: Path,
    folder: Path,
    progress: Progress,
) -> tuple[Array, dict[str, object]]:
    """The learned weights and the evidence for them."""
    proxy, names = settings.proxy, [domain.name for domain in domains]
    share = min(1.0, proxy.steps * proxy.batch_tokens / budget)
    bench = Bench(tokens_dir, Mixture(dict.fromkeys(names, 1.0), {d.name: d.groups for d in domains}), proxy, share)
    check_heldout(bench)
    count = proxy.count or max(_FEWEST_PROXIES, _PROXIES_PER_DOMAIN * len(domains))
    drawn = draw_mixtures(mixes["natural"], caps, count + proxy.checks, settings.seed)
    # Each with a seed of its own, so that the fit averages over what a seed does.
    trials = [Trial(f"draw-{place}", tuple(mix.tolist()), settings.seed + place) for place, mix in enumerate(drawn)]
    losses = run_trials(bench, trials, folder, progress, "fit")
    targets = np.array([settings.targets.get(name, 1.0) for name in names])
    check = _check(fit_laws(drawn[:count], losses[:count], seed=settings.seed), drawn[count:], losses[count:], targets)
    # Checked, so the check's own measurements may help the law that decides.
    laws = fit_laws(drawn, losses, seed=settings.seed)
    best = best_weights(laws, targets, mixes["natural"], settings.naturalness, caps)
    compared = _compare(bench, settings, {**mixes, "learned": best}, laws, folder, progress)
    evidence: dict[str, object] = {
        "targets": _named(domains, targets / targets.sum()),
        "proxy": {**proxy.model_dump(), "count": count, "share_of_corpus": share},
        "law": {
            name: {"c": laws.c[i], "a": laws.a[i], "g": laws.g[i], "transfer": _named(domains, laws.transfer[i])}
            for i, name in enumerate(names)
        },
        "check": check,
        "compared": compared,
        "trials": [
            {"weights": _named(domains, mix), "losses": _named(domains, measured)}
            for mix, measured in zip(drawn, losses, strict=True)
        ],
    }
    return best, evidence


def _check(laws: Laws, mixtures: Array, measured: Array, targets: Array) -> dict[str, object]:
    """Predicted against measured on mixtures that were not fitted: rank correlations and the error in nats."""
    if not len(mixtures):
        return {}
    predicted, share = laws.predict(mixtures), targets / targets.sum()
    by_domain = [rank_correlation(predicted[:, i], measured[:, i]) for i in range(measured.shape[1])]
    known = [one for one in by_domain if one is not None]
    return {
        "predicted": (predicted @ share).tolist(),
        "measured": (measured @ share).tolist(),
        "rank_correlation_of_target": rank_correlation(predicted @ share, measured @ share),
        "rank_correlation_per_domain": float(np.mean(known)) if known else None,
        "mean_absolute_error": float(np.abs(predicted - measured).mean()),
    }


def _compare(
    bench: Bench, settings: MixtureSettings, mixes: dict[str, Array], laws: Laws, folder: Path, progress: Progress
) -> dict[str, object]:
    """Each mix trained with fresh seeds: losses per domain, their target mean per seed, and what the law foretold."""
    names = list(bench.domains.weights)
    targets = np.array([settings.targets.get(name, 1.0) for name in names])
    share = targets / targets.sum()
    seeds = [_FRESH_SEED + settings.seed + place for place in range(settings.proxy.compare_seeds)]
    trials = [Trial(name, tuple(mix.tolist()), seed) for name, mix in mixes.items() for seed in seeds]
    starts = {f"online from {name}": mixes[name] for name in ("natural", "learned")} if settings.online else {}
    trials += [
        Trial(name, tuple(mix.tolist()), seed, settings.online) for name, mix in starts.items() for seed in seeds
    ]
    losses = run_trials(bench, trials, folder, progress, "compare")
    found: dict[str, object] = {}
    for place, (name, mix) in enumerate([*mixes.items(), *starts.items()]):
        mine = losses[place * len(seeds) : (place + 1) * len(seeds)]
        found[name] = {
            "predicted": None if name in starts else float(laws.predict(mix[None])[0] @ share),
            "measured": (mine @ share).tolist(),
            "losses": dict(zip(names, mine.mean(0).tolist(), strict=True)) if len(mine) else {},
        }
    return found


def comparison(facts: dict[str, Any]) -> list[str]:
    """Sentences on how the mixes compare and how well the law foretold it, from mixture.json; [] where not learned."""
    measured = {name: one["measured"] for name, one in facts.get("compared", {}).items() if one["measured"]}
    if "learned" not in measured:
        return []
    said = []
    for name, losses in measured.items():
        spread = f" (seeds {min(losses):.4f} to {max(losses):.4f})" if len(losses) > 1 else ""
        foretold = facts["compared"][name]["predicted"]
        law = "" if foretold is None else f", predicted {foretold:.4f}"
        said.append(f"{name}: measured {np.mean(losses):.4f}{spread}{law} nats per token")
    best = _best_measured(facts["compared"], list(facts["mixes"]))
    if best != "learned":
        said.append(
            f"the learned mix does not win here: {best} measured better; kept are the weights of the "
            f"{facts['chosen']} mix"
        )
    means = {name: float(np.mean(losses)) for name, losses in measured.items()}
    for name in facts["mixes"]:
        if means.get(f"online from {name}", 0.0) > means[name]:
            said.append(f"online reweighting from the {name} mix measured worse than that mix kept as it is")
    if check := facts["check"]:
        target, domains = check["rank_correlation_of_target"], check["rank_correlation_per_domain"]
        ranks = "too few to rank" if target is None else f"rank correlation {target:.2f}, per domain {domains:.2f}"
        said.append(
            f"the law on {len(check['measured'])} mixtures it has not seen: {ranks}, "
            f"mean error {check['mean_absolute_error']:.3f} nats"
        )
    return said


def _best_measured(compared: Any, names: list[str]) -> str | None:
    """The mix with the smallest mean loss over the fresh seeds; None where none was measured."""
    means = {name: float(np.mean(compared[name]["measured"])) for name in names if compared[name]["measured"]}
    return min(means, key=lambda name: means[name], default=None)


def _verdict(facts: dict[str, object]) -> dict[str, object]:
    """The comparison in one line per mix: the mean measured target loss."""
    compared = facts.get("compared")
    if not isinstance(compared, dict):
        return {}
    return {"loss": {name: float(np.mean(one["measured"])) for name, one in compared.items() if one["measured"]}}


def _named(domains: list[Domain], values: Array) -> dict[str, float]:
    return {domain.name: float(value) for domain, value in zip(domains, values, strict=True)}


def _run(job: Job) -> Result:
    tokens, proxies = job.run_dir / "tokens", job.run_dir / "proxies"
    settings = job.of(MixtureSettings)
    return fit_mixture(settings, tokens, _budget(job, tokens), proxies, job.output, job.progress)


def _budget(job: Job, tokens_dir: Path) -> int | None:
    """Tokens that [pretrain] will take, which decide how often a mixture repeats a domain."""
    training = job.sections.get("pretrain")
    if not isinstance(training, TrainSettings):
        return None
    tokens = int(open_shards(tokens_dir, "train").lengths.sum())
    return training.steps(max(1, tokens // training.sequence_length)) * training.batch_tokens


MIXTURE = StageKind("mixture", ("mixture",), _run, needs=lambda *_: ["tokens"])
