"""Read and write a model as a Hugging Face directory: config.json, generation_config.json, *.safetensors.

    model = load_model(directory)
    save_model(model, directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])

Loading maps the files and copies only what has to change (dtype, device, a family's own layout), tensor by tensor, so a
model needs its own size in memory and no more. A tensor that needs no change stays a view of the mapped file: pages
arrive when they are used and are shared by all processes that opened the checkpoint. The mapping is private, so
training never writes into the file, and a file replaced by renaming (as everything here does) keeps its old content
for those who have it open. Cutting a checkpoint's file short in place while a process uses it kills that process; give
`mapped=False` where a directory is not yours to keep still.

No pickle with code in it, no code from the checkpoint. Every missing, unexpected or misshaped tensor is named before
anything is loaded, and every NaN after, so a model can never run with random or broken weights.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from inkstone.chat.export import GENERATION_FILE, eos_ids
from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.decoder import Decoder
from inkstone.model.families import family_of, writing_family
from inkstone.model.files.adapter import FOLDER, own_prefix, read_prefix, save_prefix
from inkstone.model.files.offload import Offload, keep
from inkstone.model.files.pieces import Box, by_theirs, slices, their_shape, their_tensor
from inkstone.model.files.safetensors_file import Entry
from inkstone.model.files.weight_shards import MAX_SHARD_BYTES, write_json, write_weights
from inkstone.model.files.weights import GGUF, config_values, open_weights, read_values
from inkstone.model.packed.linear import PackedWeight
from inkstone.model.packed.pack import packed_maps, put_packed
from inkstone.storage.json_object import read_json_object
from inkstone.tokenizer.foreign.gguf import end_ids

_CARRIED = ("tokenizer*", "*.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
_log = logging.getLogger(__name__)
_CARRIED_TOO = ("chat_template.*", "generation_config.json", "LICENSE*", "NOTICE*")


def load_model(
    directory: Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    mapped: bool = True,
    check: bool = True,
    offload: Offload | None = None,
) -> Decoder:
    """The decoder in evaluation mode, weights in `dtype` (default: as stored).

    `check` reads all weights once to find NaN; without it, mapped weights are read when they are first used. What
    `offload` leaves where it is can be multiplied with and nothing else: it is for decoding and scoring.
    Raises InputError when the directory is not a readable model of a supported family.
    """
    weights = open_weights(directory)
    dtype = dtype or weights.dtype
    tensors: dict[str, Tensor] = {}
    kept, said = keep(weights, dtype, offload, check) if offload else ({}, "")
    packed: dict[str, Sequence[Sequence[PackedWeight]]] = {**kept}
    problems: list[str] = []
    for name in weights.shapes:
        if name in kept:
            continue
        if stored := weights.packed(name):
            packed[name] = [[part.to(device) for part in parts] for parts in stored]
            weights.release(name)
            continue
        tensors[name] = weights.read(name, None, dtype, device, mapped)
        problems += weights.not_finite(name, tensors[name]) if check else []
    if problems:
        raise InputError(sorted(set(problems)))
    with torch.device("meta"):
        model = Decoder(weights.config)
    for name, tensor in tensors.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(tensor))
    put_packed(model, packed)
    if weights.config.tie_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    if prefix := own_prefix(directory):
        model.model.prefix = read_prefix(model, prefix, of_base=True)
    if offload and offload.gpu_gib:
        model.cache_tokens = offload.cache_tokens(weights.config, dtype)
    if said:
        _log.warning("%s: %s", directory, said)
    return model.eval()


def save_model(
    model: Decoder,
    directory: Path,
    *,
    bos_id: int | None,
    eos_id: int | None,
    pad_id: int | None,
    stop_ids: list[int],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write config.json, generation_config.json (which stops at `stop_ids`), the weights in their family's layout, and
    a prefix."""
    if packed_maps(model):
        raise InputError(f"{directory}: this model's weights are packed: unpack or merge them before it is saved")
    directory.mkdir(parents=True, exist_ok=True)
    ours = {name: weight.detach() for name, weight in model.named_parameters()}

    def block_of(name: str, box: Box) -> Tensor:
        return ours[name][slices(box)].cpu()

    family = writing_family(model.config)
    shapes = {name: tuple(weight.shape) for name, weight in ours.items()}
    table = by_theirs(family.layout(model.config, ()))
    dtype = next(iter(ours.values())).dtype
    entries = {theirs: Entry(their_shape(pieces, shapes), dtype) for theirs, pieces in table.items()}
    write_weights(directory, entries, lambda theirs: their_tensor(table[theirs], shapes, block_of), max_shard_bytes)
    ids: dict[str, object] = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    write_json(directory / "config.json", config_values(family, model.config, dtype, ids))
    write_json(directory / GENERATION_FILE, {**ids, "eos_token_id": stop_ids, "do_sample": False})
    if model.model.prefix:
        save_prefix(model, directory / FOLDER, "")


def read_config(directory: Path) -> DecoderConfig:
    """The shape of the model in `directory`."""
    values, where = read_values(directory)
    return family_of(values, where).read_config(values, where)


def read_stop_ids(directory: Path) -> set[int]:
    """The token ids at which generation stops, from generation_config.json or config.json, or a GGUF file's keys.

    Raises InputError where such a file is damaged or says no ids.
    """
    if directory.suffix == GGUF:
        return end_ids(directory)
    for path in (directory / GENERATION_FILE, directory / "config.json"):
        if path.is_file() and (ids := eos_ids(read_json_object(path), path)):
            return set(ids)
    return set()


def carry_files(source: Path, target: Path) -> None:
    """Copy what stands beside the weights: tokenizer, template, generation settings, licence, prefix; never code."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in (*_CARRIED, *_CARRIED_TOO):
        for path in source.glob(pattern):
            if path.is_file() and path.suffix != ".py":
                shutil.copyfile(path, target / path.name)
    if prefix := own_prefix(source):
        shutil.copytree(prefix, target / FOLDER, dirs_exist_ok=True)
