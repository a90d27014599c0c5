"""Reading a network that dlib serialised, without dlib.

The format: a whole number is a control byte (top bit: sign, low four bits: how many bytes follow) and that many
little-endian bytes; a truth value is the character 0 or 1; a string is its length and its bytes; a tensor is the number
2, four dimensions, and float32 values. A network is its layers in the order of the data, each a string that names its
class, its parameters, and bookkeeping of numbers and truth values only. So the file can be walked token by token, and a
class name inside the float values can never be mistaken for a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.errors import WeightsError

_SETTINGS = {"con_4": 7, "max_pool_2": 6, "avg_pool_2": 6, "affine_": 0, "relu_": 0, "add_prev_": 0}
_LAYERS = (*_SETTINGS, "fc_2")
# Bytes of bookkeeping after the parameters of the last layer.
_TAIL = 72
_START = b"\x01\x0dloss_metric_2"
_INPUT = b"\x01\x15input_rgb_image_sized"


@dataclass(frozen=True)
class Layer:
    """One layer of the file.

    Attributes:
        kind: dlib's class name, such as `con_4`.
        settings: `con_4`: filters, kernel height and width, stride y and x, padding y and x. Pools: window height and
            width, stride y and x, padding y and x. `fc_2`: outputs, inputs. Others: ().
        values: float32, flat; empty for layers without parameters.
    """

    kind: str
    settings: tuple[int, ...]
    values: NDArray[np.float32]


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.at = 0

    def fail(self, what: str) -> WeightsError:
        return WeightsError(
            f"{self.path} is no whole dlib face network: {what} at byte {self.at} of {len(self.data)}; "
            "fetch it again with `kuleshov weights fetch resnet29`"
        )

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.fail("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self) -> int:
        control = self.take(1)[0]
        count = control & 0x0F
        if control & 0x70 or not 1 <= count <= 8:
            self.at -= 1
            raise self.fail("a number is malformed")
        value = int.from_bytes(self.take(count), "little")
        return -value if control & 0x80 else value

    def starts(self, text: bytes) -> bool:
        return self.data.startswith(text, self.at)

    def bookkeeping(self) -> None:
        """Skip one number or truth value."""
        if self.starts(b"0") or self.starts(b"1"):
            self.at += 1
        else:
            self.integer()

    def tensor(self) -> NDArray[np.float32]:
        if self.integer() != 2:
            raise self.fail("a tensor of another version")
        count = 1
        for _ in range(4):
            count *= self.integer()
        if count < 0:
            raise self.fail("a tensor of negative size")
        return np.frombuffer(self.take(4 * count), dtype="<f4").astype(np.float32)


def read_layers(path: Path) -> list[Layer]:
    """All layers of dlib's file, in the order of the data, with nothing left over.

    Raises:
        WeightsError: for a file that is cut short, has something after its end, or is no such network.
    """
    reader = _Reader(path)
    tags = {bytes([1, len(kind)]) + kind.encode(): kind for kind in _LAYERS}
    layers: list[Layer] = []
    tail = 0
    if _START not in reader.data[:32] or _INPUT not in reader.data[:4096]:
        raise reader.fail("its header is another one")
    reader.at = reader.data.index(_INPUT) + len(_INPUT)
    while reader.at < len(reader.data):
        tag = next((tag for tag in tags if reader.starts(tag)), None)
        if tag is None:
            reader.bookkeeping()
            continue
        reader.at += len(tag)
        layers.append(_layer(reader, tags[tag]))
        tail = reader.at
    reader.at, tail = tail, len(reader.data) - tail
    if tail != _TAIL:
        raise reader.fail(f"its last layer is followed by {tail} bytes, not {_TAIL}")
    return layers


def _layer(reader: _Reader, kind: str) -> Layer:
    values = np.empty(0, dtype=np.float32)
    if kind == "fc_2":
        settings = (reader.integer(), reader.integer())
        return Layer(kind, settings, reader.tensor())
    if kind in ("con_4", "affine_"):
        values = reader.tensor()
    return Layer(kind, tuple(reader.integer() for _ in range(_SETTINGS[kind])), values)
