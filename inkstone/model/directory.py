"""Read and write a model as a Hugging Face directory: config.json, generation_config.json, *.safetensors.

    model = load_model(directory)
    save_model(model, directory, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])

Only safetensors is read: no pickle, no code from the checkpoint. Every missing, unexpected or misshaped tensor is
named before anything is loaded, so a model can never run with random weights.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.config import DecoderConfig
from inkstone.model.decoder import Decoder
from inkstone.model.families import family_of, writing_family

_INDEX = "model.safetensors.index.json"


def load_model(directory: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Decoder:
    """The decoder in evaluation mode, weights in `dtype` (default: as stored).

    Raises InputError when the directory is not a readable model of a supported family.
    """
    config = read_config(directory)
    tensors = _read_tensors(directory, device)
    if config.tie_embeddings:
        tensors.pop("lm_head.weight", None)
    with torch.device("meta"):
        model = Decoder(config)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    _check(directory, expected, {name: tuple(t.shape) for name, t in tensors.items()})
    dtype = dtype or tensors["model.embed_tokens.weight"].dtype
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    if config.tie_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def save_model(
    model: Decoder,
    directory: Path,
    *,
    bos_id: int | None,
    eos_id: int | None,
    pad_id: int | None,
    stop_ids: list[int],
) -> None:
    """Write config.json, generation_config.json (which stops at `stop_ids`) and model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters()}
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    shape = writing_family(model.config).write_config(model.config)
    _write_json(directory / "config.json", {**shape, **ids, "torch_dtype": dtype})
    generation = {"bos_token_id": bos_id, "eos_token_id": stop_ids, "pad_token_id": pad_id, "do_sample": False}
    _write_json(directory / "generation_config.json", generation)


def read_config(directory: Path) -> DecoderConfig:
    """The shape of the model in `directory`."""
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{directory} is not a model directory: it has no config.json") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    return family_of(values, str(path)).read_config(values, str(path))


def read_stop_ids(directory: Path) -> set[int]:
    """The token ids at which generation stops, from generation_config.json or config.json."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.is_file():
            stop = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            if stop is not None:
                return {stop} if isinstance(stop, int) else set(stop)
    return set()


def _read_tensors(directory: Path, device: torch.device | str) -> dict[str, Tensor]:
    index = directory / _INDEX
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is not a readable index of shards: copy or make it again") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            raise InputError(f"{directory} is incomplete: {name} is missing (only safetensors weights are read)")
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise InputError(f"{path} is damaged ({error}): copy or make it again") from error
    return tensors


def _check(directory: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is not part of this architecture" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        shown = sorted(problems)[:10]
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise InputError([f"{directory}: {problem}" for problem in shown + more])


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
