"""Tuning: what turns a base model into a chat model, through the one loop: conversations, preference pairs, adapters.

`stage` learns conversations, `prefer` pairs, `verdicts` answers that are good or bad (KTO: `kto`), `reinforce` answers
by their reward (GRPO: `grpo`, `rollouts`, `rewards`), `rank` makes a reward model (`score`), `proximal` learns by it
(PPO: `ppo`, `ppo_rollouts`); `ends` opens the base and writes the result for all. `conversations`, `packing` and
`pairs` make rows of what `encoded` keeps on disk; `preference` has the losses of pairs, `reference` what the base
thinks of them, `noise` NEFTune's; `adapter` adds LoRA or a prefix, `merge` joins weights.
"""

from inkstone.tune.ends import Work
from inkstone.tune.packing import PackedChats
from inkstone.tune.prefer import prefer
from inkstone.tune.proximal import proximal
from inkstone.tune.rank import rank
from inkstone.tune.reinforce import reinforce
from inkstone.tune.settings import SFTSettings
from inkstone.tune.stage import SFT, sft

__all__ = ["SFT", "PackedChats", "SFTSettings", "Work", "prefer", "proximal", "rank", "reinforce", "sft"]
