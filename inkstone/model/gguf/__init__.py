"""GGUF, llama.cpp's format, both ways and for every family that llama.cpp has.

    weights = open_gguf(Path("model.gguf"))           # like open_weights(directory): our tensors, packed where it packs
    write_gguf(directory, Path("model-q8_0.gguf"), "q8_0", progress)

`architectures.py` is llama.cpp's naming as tables of pieces, `blocks.py` what its quantised blocks hold, `reading.py`
the file as a checkpoint, `vocabulary.py` the tokenizer's keys, `writing.py` the file that is written.
"""

from inkstone.model.gguf.reading import open_gguf
from inkstone.model.gguf.writing import TYPES, write_gguf

__all__ = ["TYPES", "open_gguf", "write_gguf"]
