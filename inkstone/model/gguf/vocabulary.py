"""A tokenizer as the keys of a GGUF file, with ids that llama.cpp makes the same of every text.

A vocabulary that is a SentencePiece model goes as `llama`; a byte-level one as `gpt2`, where the way it cuts text into
words has a name there. Any other is refused: under a wrong name the ids would differ without a word.
"""

from pathlib import Path
from typing import Any

from inkstone.chat.library import own_jinja
from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.foreign.gguf import words_name
from inkstone.tokenizer.foreign.model_file import model_content
from inkstone.tokenizer.foreign.sentencepiece import CONTROL, NORMAL, UNUSED, USER_DEFINED, parse_model

Keys = dict[str, Any]


def vocabulary_keys(directory: Path, rows: int, stops: set[int]) -> Keys:
    """Tokens, kinds, roles and the chat template; `rows` of the embedding, those behind the vocabulary unused."""
    tokenizer = Tokenizer.load(directory)
    spec = tokenizer.spec()
    roles = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    names = {"bos_token": roles["bos"], "eos_token": roles["eos"], "pad_token": roles["padding"]}
    content = model_content(
        spec, {role: None if at is None else tokenizer.token_name(at) for role, at in names.items()}
    )
    keys = _pieces(content, directory) if content else _byte_level(spec, directory)
    missing = rows - len(keys["tokens"])
    if missing < 0:
        raise InputError(f"{directory}: the tokenizer has {len(keys['tokens'])} ids, the embedding only {rows} rows")
    keys["tokens"] = [*keys["tokens"], *(f"[PAD{number}]" for number in range(len(keys["tokens"]), rows))]
    keys["token_type"] = [*keys["token_type"], *[UNUSED] * missing]
    if "scores" in keys:
        keys["scores"] = [*keys["scores"], *[0.0] * missing]
    keys |= {f"{role}_token_id": at for role, at in roles.items() if at is not None}
    turn = sorted(stops - {roles["eos"]})
    keys |= {"eot_token_id": turn[0]} if turn else {}
    keys |= {"add_bos_token": bool(tokenizer.start_ids), "add_eos_token": False}
    found = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    return found | ({"tokenizer.chat_template": jinja} if (jinja := own_jinja(directory)) else {})


def _pieces(content: bytes, directory: Path) -> Keys:
    model = parse_model(content, directory)
    keys: Keys = {
        "model": "llama",
        "pre": "default",
        "tokens": model.names,
        "scores": model.scores,
        "token_type": model.kinds,
        "add_space_prefix": model.dummy_prefix,
        "remove_extra_whitespaces": model.remove_extra_whitespaces,
    }
    if model.charsmap:
        keys["precompiled_charsmap"] = model.charsmap
    return keys


def _byte_level(spec: Keys, directory: Path) -> Keys:
    words = words_name(spec)
    if words is None:
        raise InputError(
            f"{directory}: llama.cpp has no name for the way this vocabulary cuts text into words, and would make "
            "other ids of it: no GGUF of this model; inkstone convert MODEL DIRECTORY keeps it whole"
        )
    added = {token["id"]: token for token in spec["added_tokens"]}
    numbers = {**spec["model"]["vocab"], **{token["content"]: at for at, token in added.items()}}
    tokens = sorted(numbers, key=lambda name: int(numbers[name]))
    kinds = [
        NORMAL if at not in added else CONTROL if added[at]["special"] else USER_DEFINED for at in range(len(tokens))
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    return {"model": "gpt2", "pre": words, "tokens": tokens, "token_type": kinds, "merges": merges}
