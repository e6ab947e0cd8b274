"""AWQ's layout for its GEMM kernel: output channels packed along the rows in a shuffled order, zeros as they are."""

from torch import Tensor

from inkstone.errors import InputError
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.layout import Layout, Parts, Settings, Shapes, bits_of, check_groups
from inkstone.model.packed.words import pack_words, unpack_words

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _shape(shapes: Shapes, settings: Settings) -> tuple[int, int]:
    rows, columns = shapes["qweight"]
    return columns * 32 // bits_of(settings, 4), rows


def _read(parts: Parts, shape: tuple[int, int], settings: Settings) -> Grouped:
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        raise InputError(f"AWQ's version {version} is not read, only gemm")
    bits = bits_of(settings, 4)
    codes_NK = unpack_words(parts["qweight"], bits, _ORDER).T
    scales_NG = parts["scales"].T
    size = int(settings.get("group_size", settings.get("q_group_size", 128)))
    group = check_groups(shape[1], scales_NG.shape[1], size)
    return Grouped(codes_NK, scales_NG, unpack_words(parts["qzeros"], bits, _ORDER).T, bits, group)


def write_awq(packed: Grouped) -> dict[str, Tensor]:
    """Raises InputError for a shape that the kernel does not take."""
    rows, columns = packed.shape
    if packed.bits != 4 or rows % 8 or columns % packed.group or packed.order is not None:
        raise InputError(f"AWQ's layout has 4 bits, rows by 8 and whole groups, not {packed.bits} bits of {rows} rows")
    return {
        "qweight": pack_words(packed.unpacked().T, 4, _ORDER),
        "qzeros": pack_words(packed.zeros.T, 4, _ORDER),
        "scales": packed.scales.half().T.contiguous(),
    }


AWQ = Layout("awq", ("qweight", "qzeros", "scales"), (), _shape, _read, write_awq)
