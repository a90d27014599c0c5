"""Photos and frames as columns: what is lacking, what is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.keys import FACES, BlockSpec, frame_key, item_key, key_list
from cache.store import Store
from stages.detect.corpus import PHOTO, SIZE_SPEC, Corpus, spans

PHOTOS = ("a" * 64, "b" * 64)
CLIP = "c" * 64
TIMES = np.array([-1, 0, 40_000])
BOXES = BlockSpec("mtcnn", "boxes", "face", (15,), 1)


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.of([PHOTOS[0], CLIP, PHOTOS[1], CLIP], {CLIP: TIMES, "d" * 64: TIMES})


def test_the_columns(corpus: Corpus) -> None:
    assert corpus.contents == [PHOTOS[0], CLIP, PHOTOS[1]]
    assert corpus.counts.tolist() == [1, 3, 1]
    assert corpus.owner.tolist() == [0, 1, 1, 1, 2]
    assert corpus.times_us.tolist() == [PHOTO, -1, 0, 40_000, PHOTO]
    frames = [frame_key(CLIP, time_us, region=FACES) for time_us in TIMES.tolist()]
    assert key_list(corpus.keys) == [
        item_key(PHOTOS[0], region=FACES),
        *frames,
        item_key(PHOTOS[1], region=FACES),
    ]
    assert key_list(corpus.size_keys) == [item_key(content) for content in corpus.contents]


def test_photos_alone_are_as_with_clips() -> None:
    alone = Corpus.of(PHOTOS, {})
    assert alone.times_us.tolist() == [PHOTO, PHOTO]
    assert key_list(alone.keys) == [item_key(content, region=FACES) for content in PHOTOS]
    assert alone.first.tolist() == [0, 1, 2]


def test_nothing() -> None:
    none = Corpus.of([], {CLIP: TIMES})
    assert (len(none), len(none.keys), len(none.owner), len(none.take([]))) == (0, 0, 0, 0)


def test_what_is_lacking(corpus: Corpus, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def now() -> tuple[list[bool], list[bool]]:
        block, sizes = store.open(BOXES), store.open(SIZE_SPEC)
        return corpus.lacking(block, sizes).tolist(), corpus.stored(block, sizes).tolist()

    assert now() == ([True] * 5, [False] * 3)
    with store.writer(BOXES) as writer:
        for key in key_list(corpus.keys)[:3]:
            writer.add(key, None, status="no_face")
    assert now() == ([True] * 5, [False] * 3), "the sizes are not there"
    with store.writer(SIZE_SPEC) as writer:
        for key in key_list(corpus.size_keys):
            writer.add(key, np.array([[4, 3]], np.int32))
    assert now() == ([False, False, False, True, True], [True, False, False])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=6), st.randoms(use_true_random=False))
def test_taking_is_as_making_anew(counts: list[int], random: object) -> None:
    clips = {f"{i:064x}": np.arange(count) * 1000 + i for i, count in enumerate(counts) if count}
    contents = [f"{i:064x}" for i in range(len(counts))]
    corpus = Corpus.of(contents, clips)
    chosen = [i for i in range(len(contents)) if random.random() < 0.5]  # type: ignore[attr-defined]
    taken, anew = corpus.take(chosen), Corpus.of([contents[i] for i in chosen], clips)
    for name in ("first", "times_us", "keys", "size_keys"):
        assert np.array_equal(getattr(taken, name), getattr(anew, name))
    dropped = corpus.without({contents[i]: None for i in chosen})
    assert dropped.contents == [one for i, one in enumerate(contents) if i not in chosen]


def test_spans() -> None:
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spans(np.array([], np.int64), np.array([], np.int64)).tolist() == []
