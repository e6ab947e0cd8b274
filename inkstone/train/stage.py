"""The pretrain stage: token shards and a shape, or a model to go on from, in; a Hugging Face model directory out.

Also `finish`, which every training stage ends with: weights, tokenizer files and metrics.jsonl side by side.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from inkstone.chat.export import GENERATION_FILE
from inkstone.errors import InputError
from inkstone.model import Decoder, ModelSettings, save_model
from inkstone.model.decoder.decoder import initialise
from inkstone.model.files.rewrite import copy_model
from inkstone.model.files.weight_shards import write_json
from inkstone.progress import Progress
from inkstone.stage import Job, Result, StageKind
from inkstone.tokenizer import Tokenizer, TokenShards, open_shards
from inkstone.train.batches import PackedCorpus
from inkstone.train.grown import grown_base
from inkstone.train.loop import train
from inkstone.train.mesh import ALONE, Mesh, join_mesh
from inkstone.train.mixed import MixedCorpus, documents_of, read_mixture
from inkstone.train.online import OnlineMixer
from inkstone.train.parallelize import empty, gathered, open_model
from inkstone.train.settings import PretrainSettings, TrainSettings
from inkstone.train.source import InOrder, Source


def pretrain(
    settings: PretrainSettings,
    shape: ModelSettings,
    tokens_dir: Path,
    tokenizer_dir: Path,
    output: Path,
    scratch: Path,
    progress: Progress,
    mixture: Path | None = None,
    mesh: Mesh = ALONE,
) -> dict[str, object]:
    """Train a new model on `tokens_dir` and write it to `output`; returns the run's figures.

    `mixture` is a mixture.json: rows are drawn by its weights, which change as it goes where it says "online".
    """
    tokenizer = Tokenizer.load(tokenizer_dir)
    shards = open_shards(tokens_dir, "train", tokenizer.fingerprint)
    source = _source(shards, mixture, settings)
    held = open_shards(tokens_dir, "heldout", tokenizer.fingerprint)
    enough = int(held.lengths.sum()) >= settings.sequence_length
    heldout = PackedCorpus(held, settings.sequence_length, settings.seed) if enough else None
    if heldout is None:
        progress.note("the held-out split is shorter than one row: no held-out loss during training")
    model = _begin(settings, shape, tokenizer, scratch, progress, mesh)
    progress.note(
        f"{model.config.num_parameters() / 1e6:.1f} M parameters, {settings.steps(source.rows_per_epoch)} steps of "
        f"{settings.batch_tokens} tokens, {source.rows_per_epoch * settings.sequence_length} tokens in an epoch"
    )
    result = train(model, source, settings, scratch, progress, heldout=heldout, mesh=mesh)
    model = gathered(model, mesh)
    if mesh.first:
        finish(model, tokenizer, scratch, output, stop_ids=tokenizer.end_ids)
    return {**asdict(result), "parameters": model.config.num_parameters(), **source.figures()}


def _begin(
    settings: PretrainSettings,
    shape: ModelSettings,
    tokenizer: Tokenizer,
    scratch: Path,
    progress: Progress,
    mesh: Mesh,
) -> Decoder:
    """Fresh weights of the shape, or those of the base, grown to the tokenizer."""
    if settings.base is None:
        return new_model(shape, tokenizer.vocab_size, settings.seed, mesh)
    model = open_model(grown_base(Path(settings.base), tokenizer, scratch / "base", progress, mesh), mesh)
    limit = model.position_limit
    if limit is not None and settings.sequence_length > limit:
        raise InputError(
            f"[pretrain] sequence_length = {settings.sequence_length} exceeds the {limit} positions of "
            f"{settings.base}: shorten it"
        )
    return model


def _source(shards: TokenShards, path: Path | None, settings: TrainSettings) -> Source:
    """Where rows come from: the corpus as it is, or its domains by the weights of a mixture."""
    if path is None:
        return InOrder(PackedCorpus(shards, settings.sequence_length, settings.seed))
    mixture = read_mixture(path)
    weights = list(mixture.weights.values())
    rows = MixedCorpus(shards, documents_of(shards, mixture), weights, settings.sequence_length, settings.seed)
    return OnlineMixer(rows, list(mixture.weights), mixture.online) if mixture.online else InOrder(rows)


def new_model(shape: ModelSettings, vocab_size: int, seed: int, mesh: Mesh = ALONE) -> Decoder:
    """A decoder with fresh weights, a function of the shape and the seed alone, whoever holds them."""
    config = shape.decoder_config(vocab_size)
    model = Decoder(config) if mesh.whole else empty(config, mesh)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def save_for(tokenizer: Tokenizer, model: Decoder, output: Path, stop_ids: list[int]) -> None:
    """Write the model with the ids of its tokenizer."""
    begin, end, fill = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    save_model(model, output, bos_id=begin, eos_id=end, pad_id=fill, stop_ids=stop_ids)


def finish(
    model: Decoder | Path,
    tokenizer: Tokenizer,
    scratch: Path,
    output: Path,
    stop_ids: list[int],
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write the model directory and move the metrics beside it; `extra` adds files, e.g. a chat template.

    `model` may be a directory, whose weights are taken as they are stored.
    """
    if isinstance(model, Decoder):
        save_for(tokenizer, model, output, stop_ids)
    else:
        copy_model(model, output)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": stop_ids, "pad_token_id": tokenizer.pad_id}
        write_json(output / GENERATION_FILE, {**ids, "do_sample": False})
    tokenizer.save(output)
    if extra:
        extra(output)
    shutil.copyfile(scratch / "metrics.jsonl", output / "metrics.jsonl")


def _run(job: Job) -> Result:
    run = job.run_dir
    weights = run / "mixture" / "mixture.json" if "mixture" in job.earlier else None
    return pretrain(
        job.of(PretrainSettings),
        job.of(ModelSettings, "model"),
        run / "tokens",
        run / "tokenizer",
        job.output,
        job.scratch,
        job.progress,
        weights,
        join_mesh(job.of(PretrainSettings).shard, job.of(PretrainSettings).tensor),
    )


PRETRAIN = StageKind(
    "pretrain",
    ("pretrain", "model"),
    _run,
    needs=lambda _, earlier: ["tokens", "mixture"] if "mixture" in earlier else ["tokens"],
    inputs=lambda settings, _: [settings.base] if settings.base else [],
    every_rank=True,
    makes_model=True,
)
