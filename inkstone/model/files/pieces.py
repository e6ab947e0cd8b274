"""Families' tables of weights, applied: the decoder's tensors out of a checkpoint's, and the other way round.

A table is a list of `Piece`s, `ours[ours_at] = theirs[theirs_rows]`. Everything here works on boxes (a range in every
dimension of a tensor), so that the same few functions load a whole model, read one rank's slice of it, or write a
checkpoint of another family, touching only the bytes that are asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from inkstone.model.families.layout import Piece

Shape = tuple[int, ...]
Box = tuple[range, ...]
"""The positions of a block in every dimension of a tensor."""


def whole(shape: Shape) -> Box:
    """The box that is all of a tensor."""
    return tuple(range(size) for size in shape)


def by_ours(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """The pieces of each of our tensors."""
    table: dict[str, list[Piece]] = {}
    for piece in pieces:
        table.setdefault(piece.ours, []).append(piece)
    return table


def by_theirs(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """The pieces of each of their tensors."""
    table: dict[str, list[Piece]] = {}
    for piece in pieces:
        table.setdefault(piece.theirs, []).append(piece)
    return table


def their_shape(pieces: Sequence[Piece], our_shapes: Mapping[str, Shape]) -> Shape:
    """The shape of one of their tensors, of which `pieces` are all."""
    rows = 0
    rest: Shape = ()
    for piece in pieces:
        kept = _kept(piece, our_shapes[piece.ours])
        if piece.theirs_rows is None:
            stop = len(kept[0])
        elif isinstance(piece.theirs_rows, slice):
            stop = piece.theirs_rows.stop
        else:
            stop = int(piece.theirs_rows.max()) + 1
        rows, rest = max(rows, stop), tuple(len(dimension) for dimension in kept[1:])
    return (rows, *rest)


def view_block(pieces: Sequence[Piece], shape: Shape, box: Box, tensor_of: Callable[[str], Tensor]) -> Tensor | None:
    """The block `box` of our tensor of `shape`, where it lies in one piece and no copy is needed; None otherwise."""
    for piece in pieces:
        at = _box(piece, shape)
        if not isinstance(piece.theirs_rows, Tensor) and all(map(_within, box, at)):
            block = _theirs(piece, tensor_of(piece.theirs), _keep(piece, _relative(box, at)))
            return block.reshape([len(dimension) for dimension in box]) if block.is_contiguous() else None
    return None


def fill_block(
    out: Tensor, pieces: Sequence[Piece], shape: Shape, box: Box, tensor_of: Callable[[str], Tensor]
) -> Tensor:
    """Copy the block `box` of our tensor into `out` (any dtype, any device), piece by piece."""
    for piece in pieces:
        at = _box(piece, shape)
        shared = tuple(range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(at, box, strict=True))
        if all(shared):
            target = out[slices(_relative(shared, box))]
            block = _theirs(piece, tensor_of(piece.theirs), _keep(piece, _relative(shared, at)))
            target.copy_(block.reshape(target.shape))
    return out


def their_tensor(
    pieces: Sequence[Piece], our_shapes: Mapping[str, Shape], block_of: Callable[[str, Box], Tensor]
) -> Tensor:
    """One of their tensors out of blocks of ours: the pieces read backwards."""
    first = pieces[0]
    if len(pieces) == 1 and first.theirs_rows is None:
        return _drop(first, block_of(first.ours, _box(first, our_shapes[first.ours])))
    out: Tensor | None = None
    for piece in pieces:
        block = _drop(piece, block_of(piece.ours, _box(piece, our_shapes[piece.ours])))
        if out is None:
            out = block.new_zeros(their_shape(pieces, our_shapes))
        out[slice(None) if piece.theirs_rows is None else piece.theirs_rows] = block
    assert out is not None
    return out


def slices(box: Box) -> tuple[slice, ...]:
    """The box as an index."""
    return tuple(slice(dimension.start, dimension.stop) for dimension in box)


def _within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


def _relative(inner: Box, outer: Box) -> Box:
    """`inner`, counted from where `outer` begins."""
    return tuple(range(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))


def _box(piece: Piece, shape: Shape) -> Box:
    """Where in our tensor the piece lies."""
    at: list[range] = []
    for number, size in enumerate(shape):
        index = piece.ours_at[number] if number < len(piece.ours_at) else slice(None)
        at.append(range(index, index + 1) if isinstance(index, int) else range(*index.indices(size)))
    return tuple(at)


def _keep(piece: Piece, box: Box) -> Box:
    """`box` without the dimensions that the piece fixes with a number: those that their tensor does not have."""
    fixed = [number for number, index in enumerate(piece.ours_at) if isinstance(index, int)]
    return tuple(dimension for number, dimension in enumerate(box) if number not in fixed)


def _kept(piece: Piece, shape: Shape) -> Box:
    return _keep(piece, _box(piece, shape))


def _drop(piece: Piece, block: Tensor) -> Tensor:
    for number in reversed([number for number, index in enumerate(piece.ours_at) if isinstance(index, int)]):
        block = block.select(number, 0)
    return block


def _theirs(piece: Piece, tensor: Tensor, box: Box) -> Tensor:
    """The part of their tensor that `box` (relative to the piece) asks for; a view unless its rows are a list."""
    rows = box[0]
    rest = slices(box[1:])
    if isinstance(piece.theirs_rows, Tensor):
        return tensor[(slice(None), *rest)][piece.theirs_rows[rows.start : rows.stop]]
    first = piece.theirs_rows.start or 0 if piece.theirs_rows is not None else 0
    return tensor[(slice(first + rows.start, first + rows.stop), *rest)]
