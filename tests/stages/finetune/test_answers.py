from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stages.backbones.registry import get_spec
from stages.errors import SettingError
from stages.finetune.answers import Answers, answer, largest, mirror, outputs, photo_probabilities, softmax
from stages.finetune.batch import PixelBatch
from stages.finetune.pixels import Pixels, face_pixels, photo_pixels
from stages.finetune.settings import AugmentSettings
from stages.ledger import Ledger

FACE = get_spec("vgg19_44:emotion")
SCENE = replace(get_spec("torchvision:resnet18"), input_size=(40, 32), resize_to=48)
PLAIN = AugmentSettings(flip=True, crop="random")
LOGITS = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0], [0.5, 0.25, 0.0], [-4.0, 4.0, 0.0]])


def answers(network: Any, pixels: Pixels, size: int, ledger: Ledger, **how: Any) -> Answers:
    """What a network says of a set, in one way."""
    return answer(outputs(network, pixels, size, mirrored=how.get("mirrored", False)), ledger, **how)


def test_softmax_of_large_logits_is_finite() -> None:
    found = softmax(np.array([[1e30, 0.0], [-1e4, -1e4 + np.log(3)]]))
    assert np.allclose(found, [[1, 0], [0.25, 0.75]])
    assert np.allclose(softmax(LOGITS), torch.softmax(torch.from_numpy(LOGITS), -1).numpy())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20), st.integers(1, 4))
def test_the_largest_faces_are_found(faces: list[tuple[int, int]], most: int) -> None:
    faces.sort(key=lambda face: face[0])
    owner = np.array([face[0] for face in faces], np.int64)
    areas = np.array([face[1] for face in faces], np.float32)
    expected = []
    for sample in range(4):
        mine = [i for i in range(len(faces)) if owner[i] == sample]
        expected += sorted(sorted(mine, key=lambda i: (-areas[i], i))[:most])
    assert largest(areas, owner, most).tolist() == expected


def test_probabilities_and_logits_are_averaged() -> None:
    owner = np.array([0, 0, 2, 2])
    means, answered = photo_probabilities(LOGITS, owner, 3)
    assert answered.tolist() == [True, False, True]
    assert np.allclose(means[0], (softmax(LOGITS[0]) + softmax(LOGITS[1])) / 2)
    assert np.array_equal(means[1], np.zeros(3))
    of_logits, answered = photo_probabilities(LOGITS, owner, 3, of="logits")
    assert answered.tolist() == [True, False, True]
    assert np.allclose(of_logits[2], softmax((LOGITS[2] + LOGITS[3]) / 2))
    assert np.array_equal(of_logits[1], np.zeros(3))
    assert not np.allclose(of_logits[0], means[0])
    assert np.allclose(means[[0, 2]].sum(1), 1)


def test_the_largest_faces_alone_may_count() -> None:
    owner, areas = np.array([0, 0, 0, 1]), np.array([5.0, 9.0, 7.0, 1.0])
    means, _ = photo_probabilities(LOGITS, owner, 2, areas=areas, most=2)
    assert np.allclose(means[0], (softmax(LOGITS[1]) + softmax(LOGITS[2])) / 2)
    assert np.allclose(means[1], softmax(LOGITS[3]))
    with pytest.raises(ValueError, match="areas"):
        photo_probabilities(LOGITS, owner, 2, most=2)


def test_nothing_is_nan() -> None:
    logits = LOGITS.copy()
    logits[0, 1], logits[2, 0] = np.nan, np.inf
    for of in ("probabilities", "logits"):
        means, answered = photo_probabilities(logits, np.array([0, 1, 1, 3]), 4, of=of)
        assert answered.tolist() == [False, True, False, True]
        assert np.allclose(means[1], softmax(LOGITS[1]))
        assert np.isfinite(means).all()
        means, answered = photo_probabilities(np.zeros((0, 3)), np.empty(0, np.int64), 2, of=of)
        assert (means.tolist(), answered.tolist()) == ([[0.0] * 3] * 2, [False, False])


class Linear(nn.Module):
    """A network of pixels' means: of each face, of each sample's faces, or of photos."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        weight = np.random.default_rng(0).normal(size=(3 * 44 * 44 if of != "photo" else 3 * 40 * 32, 3))
        self.weight = torch.from_numpy(weight / 3000)

    def forward(self, batch: PixelBatch) -> Tensor:
        pixels = batch.photos if self.of == "photo" else batch.faces
        logits = pixels.double().flatten(1) @ self.weight
        if self.of != "faces":
            return logits
        sums = torch.zeros(len(batch), 3, dtype=torch.float64).index_add_(0, batch.owner, logits)
        return sums / torch.bincount(batch.owner, minlength=len(batch))[:, None]


def logits_of(network: nn.Module, pixels: Pixels) -> np.ndarray:
    [batch] = list(pixels.batches(np.arange(len(pixels)), len(pixels), None))
    return network(batch).numpy()


def test_a_photos_answer_is_the_mean_of_its_faces(corpus: Any) -> None:
    network, ledger = Linear("face"), Ledger("finetune")
    pixels = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="face")
    found = answers(network, pixels, 4, ledger)
    assert [s.sample_id for s in found.samples] == [s.sample_id for s in corpus.photos]
    assert found.answered.tolist() == [True, True, False, True, True, True, True]
    assert not ledger.entries, "that c.png has no face is no failure"
    each = softmax(logits_of(network, pixels))
    assert np.allclose(found.probabilities[0], each[:3].mean(0))
    assert np.allclose(found.probabilities[3], each[4:8].mean(0))
    assert np.array_equal(found.probabilities[2], np.zeros(3))


def test_of_a_photo_the_largest_faces_may_count(corpus: Any) -> None:
    network = Linear("face")
    pixels = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="face")
    assert pixels.areas is not None
    for mirrored in (False, True):
        found = answers(network, pixels, 4, Ledger("finetune"), most=2, mirrored=mirrored)
        limited = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="face", max_faces=2)
        other = answers(network, limited, 3, Ledger("finetune"), mirrored=mirrored)
        assert np.allclose(found.probabilities, other.probabilities)
        every = answers(network, pixels, 4, Ledger("finetune"), mirrored=mirrored)
        assert not np.allclose(found.probabilities[3], every.probabilities[3])
        assert np.allclose(found.probabilities[1], every.probabilities[1])  # it has one face


def test_a_network_that_averages_logits_itself_says_the_same(corpus: Any) -> None:
    alone = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="face")
    together = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="faces")
    ours = answers(Linear("face"), alone, 5, Ledger("finetune"), of="logits")
    theirs = answers(Linear("faces"), together, 5, Ledger("finetune"), of="logits")
    assert np.allclose(ours.probabilities, theirs.probabilities)
    assert np.array_equal(ours.answered, theirs.answered)
    run_alone = answers(Linear("faces"), alone, 5, Ledger("finetune"), of="logits")
    assert np.allclose(ours.probabilities, run_alone.probabilities)


@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_photos_are_seen_mirrored_as_well(corpus: Any, of: Any) -> None:
    network = Linear("photo")
    pixels = photo_pixels(corpus.source(), corpus.photos, SCENE, PLAIN)
    found = answers(network, pixels, 3, Ledger("finetune"), of=of, mirrored=True)
    [batch] = list(pixels.batches(np.arange(7), 7, None))
    plain, other = network(batch).numpy(), network(replace(batch, photos=batch.photos.flip(2))).numpy()
    expected = (softmax(plain) + softmax(other)) / 2 if of == "probabilities" else softmax((plain + other) / 2)
    assert np.allclose(found.probabilities, expected)
    assert found.answered.all()
    assert not np.allclose(expected, answers(network, pixels, 3, Ledger("finetune"), of=of).probabilities)


def test_mirroring_a_batch_turns_all_pictures() -> None:
    pixels = torch.arange(2 * 2 * 3 * 3, dtype=torch.uint8).reshape(2, 2, 3, 3)
    numbers = torch.arange(2)
    boxes = torch.tensor([[0.0, 0.25, 0.5, 1.0], [0.5, 0.0, 0.75, 0.5]])
    turned = mirror(PixelBatch(pixels, numbers, pixels[:1], numbers, numbers, boxes))
    assert torch.equal(turned.faces[1, 0, 0], pixels[1, 0, 2])
    assert torch.equal(turned.photos[0, 1, 2], pixels[0, 1, 0])
    assert turned.owner is numbers
    assert turned.boxes.tolist() == [[0.5, 0.25, 1.0, 1.0], [0.25, 0.0, 0.5, 0.5]]


def test_who_has_no_answer_is_recorded(new_corpus: Callable[[], Any]) -> None:
    corpus = new_corpus()
    (corpus.root / "b.png").unlink()
    pixels = photo_pixels(corpus.source(), corpus.photos, SCENE, PLAIN)
    ledger = Ledger("finetune/answers")

    def network(batch: PixelBatch) -> Tensor:
        logits = Linear("photo")(batch)
        logits[batch.rows == 3] = torch.nan
        return logits

    found = answers(network, pixels, 3, ledger)
    assert found.answered.tolist() == [True, False, True, False, True, True, True]
    assert np.isfinite(found.probabilities).all()
    assert {name: reason for name, (reason, _) in ledger.entries.items()} == {"b.png": "missing", "d.png": "non_finite"}


def test_a_set_without_a_face_has_no_answers(corpus: Any) -> None:
    samples = [corpus.manifest.by_id["c.png"]]
    pixels = face_pixels(corpus.source(), samples, FACE, PLAIN, unit="faces", labelled=False)
    found = answers(Linear("faces"), pixels, 3, Ledger("finetune"))
    assert found.probabilities.tolist() == [[0.0, 0.0, 0.0]]
    assert found.answered.tolist() == [False]


def test_the_largest_faces_of_what_is_no_face_are_refused(corpus: Any) -> None:
    pixels = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="faces")
    with pytest.raises(SettingError, match=r"most is 3.*give the set max_faces 3"):
        answers(Linear("faces"), pixels, 3, Ledger("finetune"), most=3)


def test_one_run_is_answered_in_several_ways(corpus: Any) -> None:
    """Plain answers are the same bits, whether or not mirror images were looked at as well."""
    pixels = face_pixels(corpus.source(), corpus.photos, FACE, PLAIN, unit="face", labelled=False)
    network = Linear("face")
    both = outputs(network, pixels, 4, mirrored=True)
    ways: list[dict[str, Any]] = [{}, {"most": 2}, {"of": "logits", "most": 1}, {"mirrored": True, "most": 3}]
    for how in ways:
        found = answer(both, Ledger("finetune"), **how)
        assert (found.probabilities == answers(network, pixels, 4, Ledger("finetune"), **how).probabilities).all()
    with pytest.raises(ValueError, match="the mirror images were not asked for"):
        answer(outputs(network, pixels, 4), Ledger("finetune"), mirrored=True)
