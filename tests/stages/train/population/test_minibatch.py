"""Minibatches of many members: the same rows as the padded batches of `Features.batch`, from memory or read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.train.features import Features
from stages.train.population.minibatch import Held, Streamed, source_of, take


def streamed(features: Features) -> Streamed:
    return Streamed(features.batch, np.diff(features.offsets), features.views)


@given(data=st.data(), n=st.integers(1, 12), most=st.integers(0, 4), views=st.integers(1, 3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_padded_batches(
    drawn: Callable[..., Features], data: st.DataObject, n: int, most: int, views: int
) -> None:
    features = drawn(n, (3, 2), most, views)
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    of = lambda top: st.lists(st.integers(0, top), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])  # noqa: E731
    samples = np.array(data.draw(of(n - 1))).reshape(shape)
    seen = np.array(data.draw(of(views - 1))).reshape(shape) if views > 1 else None
    held = source_of(features)
    assert isinstance(held, Held)
    for source in (held, streamed(features)):
        minibatch, padded = take(source, samples, seen), source.padded(samples, seen)
        for p in range(shape[0]):
            expected = features.batch(samples[p], None if seen is None else seen[p])
            real = expected.faces[expected.face_mask]
            assert torch.equal(minibatch.faces[p, : len(real)], real)
            assert torch.equal(minibatch.global_[p], expected.global_)
            width = expected.faces.shape[1]
            for name in ("faces", "face_mask", "boxes"):
                whole = getattr(padded, name)[p]
                assert torch.equal(whole[:, :width], getattr(expected, name))
                assert not whole[:, width:].any()
            assert torch.equal(padded.global_[p], expected.global_)
        assert torch.isfinite(minibatch.faces).all()


@given(data=st.data(), shape=st.tuples(st.integers(1, 3), st.integers(1, 5)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_faces_lie(drawn: Callable[..., Features], data: st.DataObject, shape: tuple[int, int]) -> None:
    features = drawn(9, (3, 2), 3)
    numbers = data.draw(st.lists(st.integers(0, 8), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    samples = np.array(numbers).reshape(shape)
    batch = take(source_of(features), samples)
    counts = np.diff(features.offsets)[samples]
    owner, share = torch.zeros(batch.owner.shape), torch.zeros(batch.share.shape)
    slots, seats = [], []
    for p in range(shape[0]):
        place = 0
        for b in range(shape[1]):
            for face in range(counts[p, b]):
                owner[p, place, b], share[p, place] = 1, 1 / counts[p, b]
                slots.append(p * batch.faces.shape[1] + place)
                seats.append((p * shape[1] + b) * batch.widest + face)
                place += 1
    assert torch.equal(batch.owner, owner)
    torch.testing.assert_close(batch.share, share)
    assert batch.slots.tolist() == slots
    assert batch.seats.tolist() == seats


def test_what_is_not_in_memory_is_read_once_a_step(drawn: Callable[..., Features]) -> None:
    features = drawn(10)
    asked: list[list[int]] = []

    def batch(rows: np.ndarray, views: np.ndarray | None) -> object:
        asked.append(rows.tolist())
        return features.batch(rows, views)

    source = Streamed(batch, np.diff(features.offsets))  # pyright: ignore[reportArgumentType]
    take(source, np.array([[3, 1, 4], [1, 5, 9], [3, 1, 4]]))
    assert asked == [[1, 3, 4, 5, 9]]


def test_a_held_table_is_not_copied_and_may_be_read_only(drawn: Callable[..., Features]) -> None:
    features = drawn(5)
    faces, global_ = np.asarray(features.faces), np.asarray(features.global_)
    source = Held(faces, features.offsets, features.boxes, global_)
    cut = source.cut(np.array([1]), None)
    assert cut.faces.data_ptr() == faces.ctypes.data
    assert cut.global_.data_ptr() == global_.ctypes.data
    frozen = faces.copy()
    frozen.flags.writeable = False
    again = Held(frozen, features.offsets, features.boxes, global_)
    assert torch.equal(again.cut(np.array([1]), None).faces, cut.faces)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 2, 0]])
def test_samples_without_faces(counts: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    faces = np.ones((int(offsets[-1]), 3), np.float32)
    source = Held(faces, offsets, np.zeros((len(faces), 4), np.float32), np.ones((3, 2), np.float32))
    batch = take(source, np.array([[0, 2], [2, 0]]))
    assert batch.faces.shape == (2, 1, 3)
    assert not batch.owner.any()
    assert len(batch.slots) == len(batch.seats) == 0
    assert not source.padded(np.array([[0, 2]]), None).face_mask.any()
