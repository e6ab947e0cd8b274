"""The few bytes of Protocol Buffers that a SentencePiece `.model` needs: a message as (field number, value) pairs.

Reading the wire format takes less code than guarding two optional packages would, so a `.model` opens with the core
install; the tests compare the result with the protobuf package, field by field. `field` writes one.
"""

import struct
from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field in file order: a number for varints, the raw bytes for the rest. Raises ValueError on damage."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"byte {at} begins a field of the unknown kind {kind}")
        if at + size > len(message):
            raise ValueError(f"it ends inside a field of {size} bytes that begins at byte {at}")
        yield key >> 3, message[at : at + size]
        at += size


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field as bytes: an int as a varint, a float as 32 bits, a text or a message with its length."""
    if isinstance(value, float):
        return _written_varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _written_varint(number << 3) + _written_varint(value & (1 << 64) - 1)
    content = value.encode("utf-8") if isinstance(value, str) else value
    return _written_varint(number << 3 | 2) + _written_varint(len(content)) + content


def float32(value: int | bytes) -> float:
    """A fixed 32-bit field as a float."""
    return float(struct.unpack("<f", _raw(value))[0])


def text(value: int | bytes) -> str:
    """A length-delimited field as UTF-8."""
    return _raw(value).decode("utf-8")


def signed(value: int | bytes) -> int:
    """A varint as an int32, where -1 is written as 2**64 - 1."""
    if not isinstance(value, int):
        raise ValueError("a number was expected and bytes were found")
    return value - (1 << 64) if value >> 63 else value


def _raw(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes were expected and a number was found")
    return value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    raise ValueError(f"byte {at} is inside a number that does not end")


def _written_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
