"""One decoder-only transformer and the Hugging Face directory it lives in.

    model = load_model(Path("runs/primer/sft"))
    logits_BTV = model(tokens_BT)

The decoder never asks which family it is; `families.py` translates configurations, `directory.py` reads and writes.
"""

from inkstone.model.decoder.attention import AttentionContext
from inkstone.model.decoder.cached import BLOCK, BlockPool, CacheContext, Span
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.decoder.decoder import Decoder
from inkstone.model.decoder.packed import PackedContext
from inkstone.model.files.directory import load_model, save_model
from inkstone.model.opened import Opened, open_directory
from inkstone.model.settings import ModelSettings

__all__ = [
    "BLOCK",
    "AttentionContext",
    "BlockPool",
    "CacheContext",
    "Decoder",
    "DecoderConfig",
    "ModelSettings",
    "Opened",
    "PackedContext",
    "Span",
    "load_model",
    "open_directory",
    "save_model",
]
