"""Keys: what makes a block of features, and one item in it, the same as one computed before.

A key is a hash over an allow-list. What is not listed (batch size, workers, device index, paths, time) does not change
a key; what is listed and changes makes another block, and the old one stays until it is collected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LEVEL_ROWS = {
    "global": "a whole photo or frame; imported: a photo, or a whole clip",
    "frame": "a photo, or one frame of a clip",
    "face": "one face of a photo or frame: found, given, or the whole image",
    "person": "one person of a photo or frame: in a given box, or around a face",
}
"""Level -> what one row is."""

LEVELS = tuple(LEVEL_ROWS)
KEY_BYTES = 16
KEY_DTYPE = np.dtype(f"S{KEY_BYTES}")
"""Item keys in arrays: 16 bytes. numpy pads and compares them with trailing NULs, which 16 full bytes make exact."""

WHOLE = "whole"
"""Region of a whole photo or frame."""

FACES = "faces"
"""Region of all faces that the block's detector found in a photo or frame, one row a face in stored order."""

PLAIN = "plain"
"""View of an item as it is: not flipped, not cropped."""


@dataclass(frozen=True)
class BlockSpec:
    """Everything that changes the values of a block's rows, and nothing else.

    Attributes:
        source: what computes the rows: a detector, an alignment, a backbone (`mtcnn`, `dlib150`, `resnet29`).
        tap: which of its outputs (`boxes`, `pixels`, `embedding`).
        level: what one row is: `global` a photo or clip, `frame`, `face`, `person`.
        shape: of one row, `(128,)` or `(112, 96, 3)`.
        extractor_version: raised by hand when the code's values change.
        weights: file name -> SHA-256 (hex) of the weights used.
        preprocessing: sizes, colour order, mean, std, interpolation, thresholds: JSON values.
        inputs: name -> key of the blocks this one is computed from.
        numerics: engine, dtype of the stored rows, and what else rounds values differently.
    """

    source: str
    tap: str
    level: str
    shape: tuple[int, ...]
    extractor_version: int
    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    numerics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level is {self.level!r}: use one of {', '.join(LEVELS)}")

    def as_dict(self) -> dict[str, Any]:
        """The spec as JSON values, keys sorted at every depth by `canonical_json`."""
        return {**asdict(self), **{name: dict(getattr(self, name)) for name in _MAPPINGS}, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BlockSpec:
        """Rebuild a spec from `as_dict`."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "shape": tuple(fields["shape"])})

    @property
    def key(self) -> str:
        """SHA-256 (hex) of the canonical JSON of every field."""
        return hashlib.sha256(canonical_json(self.as_dict()).encode()).hexdigest()

    @property
    def name(self) -> str:
        """`source/tap`, as people write it."""
        return f"{self.source}/{self.tap}"


_MAPPINGS = ("weights", "preprocessing", "inputs", "numerics")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values are equal text. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def item_key(content: str, *, frame_s: float | None = None, region: str = WHOLE, view: str = PLAIN) -> bytes:
    """Key of one item of a block: 16 bytes.

    Args:
        content: SHA-256 (hex) of the source's bytes (or of its decoded array for packed sources).
        frame_s: presentation time of the frame in seconds; None for a photo.
        region: `WHOLE`, `FACES`, or `box_region(...)`.
        view: `PLAIN`, or a named flip or crop.

    An item has n >= 0 rows; row i of it is identified by (item key, i).
    """
    frame = "photo" if frame_s is None else f"{frame_s:.6f}"
    plain = hashlib.sha256("\x1f".join((content, frame, region, PLAIN)).encode()).digest()[:KEY_BYTES]
    return view_key(plain, view)


def item_keys(contents: Iterable[str], *, region: str = WHOLE) -> list[bytes]:
    """`item_key` of many photos at once, in half the time."""
    sha256, rest = hashlib.sha256, f"\x1fphoto\x1f{region}\x1f{PLAIN}".encode()
    return [sha256(content.encode() + rest).digest()[:KEY_BYTES] for content in contents]


def frame_key(content: str, time_us: int | None, *, region: str = WHOLE) -> bytes:
    """`item_key` of a clip's frame by its presentation time in whole microseconds; None: of a photo."""
    return item_key(content, frame_s=None if time_us is None else time_us / 1e6, region=region)


def view_key(plain: bytes, view: str) -> bytes:
    """Key of another view of an item, 16 bytes, from the key of the plain one."""
    return plain if view == PLAIN else hashlib.sha256(b"\x1f".join((plain, view.encode()))).digest()[:KEY_BYTES]


def box_region(x1: float, y1: float, x2: float, y2: float) -> str:
    """Region of a given box (px of the upright original): a corrected box is another region."""
    return f"box:{x1:.3f},{y1:.3f},{x2:.3f},{y2:.3f}"


def key_array(keys: list[bytes]) -> np.ndarray:
    """Item keys as an array of `KEY_DTYPE`, shape (n,)."""
    return np.array(keys, dtype=KEY_DTYPE)


def key_list(keys: np.ndarray) -> list[bytes]:
    """The inverse of `key_array`: 16 bytes each (taking them out one by one would strip NULs from their ends)."""
    return np.ascontiguousarray(keys).view(f"V{keys.dtype.itemsize}").tolist()


def key_hex(key: bytes | np.bytes_) -> str:
    """An item key as 32 hex digits (restores NULs that numpy strips from the end)."""
    return bytes(key).ljust(KEY_BYTES, b"\0").hex()
