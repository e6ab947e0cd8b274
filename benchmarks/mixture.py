"""Does a learned mixture beat the natural and the stratified one? Measured losses side by side, on real corpora.

    python benchmarks/mixture.py --data ../shared/data/pretrain --runs runs

Curates the corpora, trains a tokenizer, encodes, fits the mixture's law on `--proxies` tiny models and trains the
learned, natural and stratified mix (and online reweighting) with `--seeds` fresh seeds each on the same budget. Prints
losses per mix, differences seed by seed, the law's predictions on mixtures it has not seen, beside those of plainer
ones in cross-validation, and CPU seconds. What is finished is kept in `--runs`: a second call goes on from there.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

RECIPE = """
name = "mixture-benchmark"
runs_dir = {runs}
[corpus]
inputs = [{inputs}]
heldout_fraction = 0.03
[tokenizer]
vocab_size = {vocab_size}
character_coverage = {coverage}
sample_mb = 30
[mixture]
budget_tokens = 10_000_000     # the run the mixture is for; proxies see the corpus cut down in the same proportion
[mixture.groups]
"zh verse" = ["zh/chinese-poetry/*"]
"zh novels" = ["zh/novel/*", "zh/chinese-xinhua/*"]
"zh wiki" = ["zh/zh-wikipedia*"]
"zh technical" = ["zh/*", "mixed/*"]
"en books" = ["en/gutenberg/*", "en/standardebooks/*", "en/tinyshakespeare"]
"en speeches" = ["en/us-speeches/*"]
"en wiki and web" = ["en/*wiki*", "en/c4"]
"en technical" = ["en/python-docs", "en/rust-book"]
[mixture.proxy]
count = {proxies}
checks = {checks}
compare_seeds = {seeds}
steps = {steps}
learning_rate = {learning_rate}
workers = {workers}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with zh/*.jsonl.zst and en/*.jsonl.zst")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run directory is")
    parser.add_argument("--proxies", type=int, default=24)
    parser.add_argument("--checks", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="steps of 512 tokens per proxy")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--vocab-size", type=int, default=1024, help="smaller: faster proxies, which learn more")
    parser.add_argument("--coverage", type=float, default=0.7, help="of characters; the rest is written as bytes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--online", action="store_true", help="also train with online reweighting")
    options = parser.parse_args()
    facts, seconds, wall = fit(options)
    report(facts)
    crossvalidate(facts)
    print(f"\n{seconds:.0f} CPU seconds, {wall:.0f} s in this call; {platform.processor() or platform.machine()}, "
          f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")  # fmt: skip


def fit(options: argparse.Namespace) -> tuple[dict[str, object], float, float]:
    """mixture.json, CPU seconds and wall seconds."""
    from inkstone.cli.mixture_commands import show
    from inkstone.cli.run import run_recipe

    inputs = ", ".join(json.dumps(str(options.data / lang / "*.jsonl.zst")) for lang in ("zh", "en"))
    text = RECIPE.format(runs=json.dumps(str(options.runs)), inputs=inputs, **{
        name: getattr(options, name)
        for name in ("proxies", "checks", "seeds", "steps", "learning_rate", "vocab_size", "coverage",
                     "workers")
    })  # fmt: skip
    text += "[mixture.online]\n" if options.online else ""
    options.runs.mkdir(parents=True, exist_ok=True)
    recipe = options.runs / "mixture-benchmark.toml"
    recipe.write_text(text, encoding="utf-8")
    start, clock = sum(os.times()[:4]), time.perf_counter()
    run_recipe(recipe, [], dry_run=False, until="mixture")
    seconds, wall = sum(os.times()[:4]) - start, time.perf_counter() - clock
    folder = options.runs / "mixture-benchmark" / "mixture"
    facts: dict[str, object] = json.loads((folder / "mixture.json").read_text(encoding="utf-8"))
    show(facts)
    return facts, seconds, wall


def report(facts: dict[str, object]) -> None:
    """Learned against each other mix, seed by seed: differences in nats per token, mean over domains."""
    compared = facts["compared"]
    assert isinstance(compared, dict)
    learned = compared["learned"]["measured"]
    print("\nloss minus that of the learned mix, nats per token (mean over domains), seed by seed:")
    for name, one in compared.items():
        gaps = [other - mine for other, mine in zip(one["measured"], learned, strict=True)]
        mean = sum(gaps) / max(len(gaps), 1)
        print(f"  {name:<22} {mean:+.4f}   ({', '.join(f'{gap:+.4f}' for gap in gaps)})")


def crossvalidate(facts: dict[str, object], folds: int = 5) -> None:
    """Errors and ranks of the law, a ridge regression on log weights and the nearest neighbour, each fold unseen."""
    import numpy as np

    from inkstone.mixture.law import fit_laws, rank_correlation

    trials = facts["trials"]
    assert isinstance(trials, list)
    mixes, losses = (np.array([list(one[key].values()) for one in trials]) for key in ("weights", "losses"))

    def ridge(tried: np.ndarray, found: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        known, wanted = (np.column_stack([np.ones(len(some)), np.log(some + 0.01)]) for some in (tried, unseen))
        penalty = 0.1 * np.diag([0.0, *np.ones(tried.shape[1])])
        return wanted @ np.linalg.solve(known.T @ known + penalty, known.T @ found)

    def nearest(tried: np.ndarray, found: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        distance = ((np.sqrt(tried)[None] - np.sqrt(unseen)[:, None]) ** 2).sum(-1)
        return found[distance.argmin(1)]

    models = {
        "effective-data law": lambda tried, found, unseen: fit_laws(tried, found).predict(unseen),
        "ridge on log weights": ridge,
        "nearest neighbour": nearest,
        "mean of all": lambda tried, found, unseen: np.repeat(found.mean(0)[None], len(unseen), 0),
    }
    fold = np.random.default_rng(0).permutation(len(mixes)) % folds
    print(f"\n{folds}-fold cross-validation on {len(mixes)} proxies: error per domain, of the mean, rank of the mean")
    for name, predict in models.items():
        guess = np.zeros_like(losses)
        for one in range(folds):
            guess[fold == one] = predict(mixes[fold != one], losses[fold != one], mixes[fold == one])
        errors = np.abs(guess - losses).mean(), np.abs((guess - losses).mean(1)).mean()
        rank = rank_correlation(guess.mean(1), losses.mean(1))
        print(f"  {name:<22} {errors[0]:.4f}  {errors[1]:.4f}  {rank:.3f}")


if __name__ == "__main__":
    main()
