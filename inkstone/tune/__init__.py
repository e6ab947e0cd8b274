"""Tuning: what turns a base model into a chat model. Today: supervised fine-tuning through the one loop."""

from inkstone.tune.packing import PackedChats
from inkstone.tune.settings import SFTSettings
from inkstone.tune.stage import SFT, sft

__all__ = ["SFT", "PackedChats", "SFTSettings", "sft"]
