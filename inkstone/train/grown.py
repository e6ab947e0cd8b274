"""The model that continued pretraining starts from, with a row for every token of the run's tokenizer.

An extended tokenizer keeps all ids of the old one and appends new ones; their rows begin as the mean of the rows
that the old tokenizer spells them with (`model/files/vocabulary.py`).
"""

from pathlib import Path

from inkstone.errors import InputError
from inkstone.model.files.vocabulary import extend_model
from inkstone.progress import Progress
from inkstone.storage import atomic_directory, settle
from inkstone.tokenizer import Extension, Tokenizer
from inkstone.train.mesh import Mesh, wait_for_all


def grown_base(base: Path, tokenizer: Tokenizer, place: Path, progress: Progress, mesh: Mesh) -> Path:
    """`base` itself where its tokenizer is the run's, else `place` with the grown model; a resumed run finds it there.

    Raises InputError where the run's tokenizer is another one than the base's, or one that does not extend it.
    """
    old = Tokenizer.load(base)
    if old.fingerprint == tokenizer.fingerprint:
        return base
    old_ids, new_ids = old.vocabulary(), tokenizer.vocabulary()
    added = sorted(new_ids.keys() - old_ids.keys(), key=new_ids.__getitem__)
    if not added or any(new_ids.get(piece) != number for piece, number in old_ids.items()):
        raise InputError(
            f'[pretrain] base = "{base}" has another tokenizer than the run: set [tokenizer] base to the same '
            "directory, with [tokenizer.extend] to add tokens"
        )
    if mesh.first:
        settle(place)
        if not place.is_dir():
            with atomic_directory(place) as draft:
                extend_model(base, old, Extension(tokenizer, added, {}), draft)
            progress.note(f"the base gets {len(added)} new rows, each the mean of its old pieces' rows")
    wait_for_all(mesh)
    return place
