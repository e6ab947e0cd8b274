"""Packed weights: how 4 and 8 bit weights lie in memory and in the files of the field's layouts.

    pack_model(model, "nf4")                     # every linear map of the blocks, in place
    module.packed.dequantise(torch.bfloat16)     # the weight [N, K] that a packed map computes with

`nf4.py` and `grouped.py` are the two forms in memory; the other files say how each layout is written down. The decoder
does not know: a packed map stands where a linear map stood.
"""

from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.linear import PackedExperts, PackedLinear, PackedWeight
from inkstone.model.packed.nf4 import Nf4

__all__ = ["Grouped", "Nf4", "PackedExperts", "PackedLinear", "PackedWeight"]
