"""MATLAB files of data sets: struct arrays, cells, texts and numbers of a MAT-file of version 5.

Written from MathWorks' "MAT-File Format" (level 5). Damaged files are common in what people download, and scipy 1.17's
reader crashes the process on some, so this one reads only what is inside the bounds that the file gives.

A struct array becomes a list of dicts, a cell a list, a text a str, an array of numbers a list of floats, each in
MATLAB's order (columns first); anything else an empty list.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from stages.errors import DataError

_HEADER = 128
_MOST = 1 << 30  # bytes that a variable is unpacked to
_DEEPEST = 24  # arrays in arrays
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
_FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class _Damaged(Exception):
    pass


def read_mat(path: Path, place: str, names: Collection[str], fields: Collection[str]) -> dict[str, Any]:
    """Some variables of a MATLAB file.

    Args:
        path: the file.
        place: where params.yaml names the data set, for messages.
        names: the variables that are wanted; those that are not in the file are not in the answer.
        fields: the fields of structs that are wanted, at any depth; others are passed over.

    Returns:
        Name -> value, see above.

    Raises:
        DataError: it cannot be read, is no MATLAB file of version 5 (such as one of 7.3, which is HDF5), or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{place}: {path} cannot be read ({error.strerror}): is the data set complete?") from None
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack_from(order + "H", data, 124)[0] >> 8 != 1:
        raise DataError(
            f"{place}: {path} is no MATLAB file of version 5: take the original, or save it in MATLAB with `save -v7`"
        )
    try:
        return _variables(data, order, names, frozenset(fields))
    except (_Damaged, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{place}: {path} is damaged ({error}): get it again") from None


def _variables(data: bytes, order: str, names: Collection[str], fields: frozenset[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = _HEADER
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        start, at = at + 8, at + 8 + size
        if at > len(data):
            raise _Damaged(f"a variable of {size} bytes ends after the file")
        if kind == _COMPRESSED:
            reader = _Reader(_unpacked(data[start:at]), order, fields)
            kind, start, size, _ = reader.element(0, len(reader.data))
        else:
            reader = _Reader(data, order, fields)
        if kind != _MATRIX:
            raise _Damaged(f"a variable of type {kind}")
        name = reader.head(start, start + size)[2]
        if name in names:
            found[name] = reader.matrix(start, size, 0)
    return found


def _unpacked(data: bytes) -> bytes:
    """What zlib packed, checked by its own checksum."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, _MOST)
    if not unpacker.eof:
        raise _Damaged(f"a packed variable has no end, or is larger than {_MOST} bytes")
    return unpacked


class _Reader:
    """Reads arrays out of bytes; nothing outside an array's own bounds is looked at."""

    def __init__(self, data: bytes, order: str, fields: frozenset[str]) -> None:
        self.data, self._order, self._fields = data, order, fields
        self._word, self._usual = struct.Struct(order + "I"), struct.Struct(order + "8I")

    def element(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Type, first byte, size and the next element's first byte."""
        if at + 8 > end:
            raise _Damaged(f"an element is cut off at byte {at}")
        (word,) = self._word.unpack_from(self.data, at)
        if size := word >> 16:  # up to four bytes lie in the tag itself
            kind, start, after = word & 0xFFFF, at + 4, at + 8
            fits = size <= 4
        else:
            kind, start = word, at + 8
            (size,) = self._word.unpack_from(self.data, at + 4)
            after = start + size + -size % 8
            fits = start + size <= end
        if not fits:
            raise _Damaged(f"an element of {size} bytes at byte {at} ends after what it is in")
        return kind, start, size, after

    def head(self, at: int, end: int) -> tuple[int, int, str, int]:
        """Class, number of elements, name, and where the content starts."""
        if at + 32 > end:
            raise _Damaged(f"an array is cut off at byte {at}")
        flags_kind, flags_size, flags, _, dims_kind, dims_size, rows, columns = self._usual.unpack_from(self.data, at)
        if (flags_kind, flags_size, dims_kind) != (6, 8, 5) or dims_size % 4:
            raise _Damaged(f"no array at byte {at}")
        count, at = rows * columns, at + 32
        if dims_size != 8:
            _, start, size, at = self.element(at - 16, end)
            count = math.prod(struct.unpack_from(f"{self._order}{size // 4}I", self.data, start))
        _, start, size, at = self.element(at, end)
        return flags & 0xFF, count, self.data[start : start + size].decode("latin-1"), at

    def matrix(self, at: int, size: int, depth: int) -> Any:
        """The value of an array of `size` bytes."""
        if not size:
            return []
        if depth > _DEEPEST:
            raise _Damaged(f"more than {_DEEPEST} arrays in arrays")
        end = at + size
        kind, count, _, at = self.head(at, end)
        if kind == _CELL:
            return self._inner(at, end, count, depth)
        if kind == _STRUCT:
            return self._structs(at, end, count, depth)
        if kind == _CHAR:
            return self._text(at, end) if count else ""
        return self._floats(at, end, count) if count and kind in _NUMBERS else []

    def _inner(self, at: int, end: int, count: int, depth: int) -> list[Any]:
        self._require_room(at, end, count)
        values = []
        for _ in range(count):
            kind, start, size, at = self.element(at, end)
            values.append(self.matrix(start, size, depth + 1) if kind == _MATRIX else [])
        return values

    def _structs(self, at: int, end: int, count: int, depth: int) -> list[dict[str, Any]]:
        _, start, _, at = self.element(at, end)
        (width,) = self._word.unpack_from(self.data, start)
        _, start, size, at = self.element(at, end)
        if not 0 < width <= 1024:
            raise _Damaged(f"field names of {width} bytes")
        cut = (self.data[place : place + width] for place in range(start, start + size, width))
        names = [name.partition(b"\0")[0].decode("latin-1") for name in cut]
        self._require_room(at, end, count * len(names))
        structs = []
        for _ in range(count if names else 0):
            values: dict[str, Any] = {}
            for name in names:
                kind, start, size, at = self.element(at, end)
                if name in self._fields:
                    values[name] = self.matrix(start, size, depth + 1) if kind == _MATRIX else []
            structs.append(values)
        return structs

    def _text(self, at: int, end: int) -> str:
        kind, start, size, _ = self.element(at, end)
        if kind not in _TEXTS:
            raise _Damaged(f"a text of type {kind}")
        encoding = _TEXTS[kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self._order == "<" else "-be"
        return self.data[start : start + size].decode(encoding)

    def _floats(self, at: int, end: int, count: int) -> list[float]:
        kind, start, size, _ = self.element(at, end)
        if kind not in _FORMATS:
            raise _Damaged(f"numbers of type {kind}")
        if size != count * struct.calcsize("=" + _FORMATS[kind]):
            raise _Damaged(f"{count} numbers of type {kind} in {size} bytes")
        return [float(value) for value in struct.unpack_from(f"{self._order}{count}{_FORMATS[kind]}", self.data, start)]

    def _require_room(self, at: int, end: int, count: int) -> None:
        """Refuse more elements than could be there, before memory is asked for."""
        if count * 8 > end - at:
            raise _Damaged(f"{count} elements in {end - at} bytes")
