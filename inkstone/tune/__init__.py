"""Tuning: what turns a base model into a chat model, through the one loop: conversations, preference pairs, adapters.

`stage` learns conversations and `prefer` pairs; `ends` opens the base and writes the result for both. `packing` and
`pairs` make rows, `preference` has the losses, `reference` what the base thinks of the pairs, `adapter` LoRA.
"""

from inkstone.tune.packing import PackedChats
from inkstone.tune.prefer import prefer
from inkstone.tune.settings import SFTSettings
from inkstone.tune.stage import SFT, sft

__all__ = ["SFT", "PackedChats", "SFTSettings", "prefer", "sft"]
