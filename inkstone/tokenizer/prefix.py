"""The dummy prefix: SentencePiece models write a space before every string, so a text that continues one needs none.

`without_prefix` gives the same tokenizer for continued texts. It knows the two ways in which a tokenizer.json says it:
a normalizer that prepends "▁" (LLaMA, Mistral, ChatGLM as converted) and a Metaspace pre-tokenizer.
"""

import json
from typing import Any

import tokenizers


def without_prefix(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """`backend` itself where it has no dummy prefix, else a copy that writes none."""
    content = json.loads(backend.to_str())
    normalizer, prepends = _without_prepend(content["normalizer"])
    metaspace = _metaspaces(content["pre_tokenizer"])
    if not prepends and all(part.get("prepend_scheme") == "never" for part in metaspace):
        return backend
    content["normalizer"] = normalizer
    for part in metaspace:
        part["prepend_scheme"] = "never"
    copy = tokenizers.Tokenizer.from_str(json.dumps(content))
    copy.encode_special_tokens = backend.encode_special_tokens
    return copy


def _without_prepend(normalizer: dict[str, Any] | None) -> tuple[dict[str, Any] | None, bool]:
    """The normalizer without its Prepend, and whether it had one."""
    if normalizer is None:
        return None, False
    if normalizer["type"] == "Prepend":
        return None, True
    if normalizer["type"] != "Sequence":
        return normalizer, False
    kept = [part for part in normalizer["normalizers"] if part["type"] != "Prepend"]
    return {**normalizer, "normalizers": kept}, len(kept) < len(normalizer["normalizers"])


def _metaspaces(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    parts = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    return [part for part in parts if part["type"] == "Metaspace"]
