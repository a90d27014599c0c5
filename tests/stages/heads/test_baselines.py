"""Baselines against scikit-learn itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

from stages.errors import DataError, SettingError
from stages.heads import baselines, registry
from stages.heads.batch import HeadBatch

FACE_DIM, GLOBAL_DIM, N = 4, 3, 60
KINDS = {"logistic": LogisticRegression, "svm": LinearSVC}


def make_batch(seed: int = 0) -> HeadBatch:
    """Samples of 0 to 3 faces."""
    noise = torch.Generator().manual_seed(seed)
    mask = torch.arange(3) < (torch.arange(N) % 4)[:, None]
    faces = torch.randn(N, 3, FACE_DIM, generator=noise)
    return HeadBatch(faces, mask, torch.zeros(N, 3, 4), torch.randn(N, GLOBAL_DIM, generator=noise))


def rows_of(batch: HeadBatch, variant: str) -> np.ndarray:
    """What scikit-learn is given."""
    samples = zip(batch.faces, batch.face_mask, strict=True)
    means = [faces[mask].mean(0) if mask.any() else torch.zeros(FACE_DIM) for faces, mask in samples]
    parts = {"faces": [torch.stack(means)], "photo": [batch.global_]}
    chosen = parts.get(variant.partition("_")[2]) or [*parts["faces"], *parts["photo"]]
    return torch.cat(chosen, dim=1).double().numpy()


def labels_of(batch: HeadBatch, classes: int) -> Tensor:
    """Classes that the features tell, with noise."""
    noise = torch.Generator().manual_seed(7)
    told = rows_of(batch, "") @ torch.randn(FACE_DIM + GLOBAL_DIM, classes, generator=noise).double().numpy()
    return torch.from_numpy((told + np.random.default_rng(1).normal(size=told.shape)).argmax(1))


def solve(
    variant: str, batch: HeadBatch, labels: Tensor, classes: int, weights: Tensor | None = None, **options: float
) -> tuple[baselines.LinearHead, float]:
    name = f"baselines:{variant}"
    torch.manual_seed(0)
    levels = baselines.NEEDS[variant]
    shapes = registry.Shapes(FACE_DIM * ("face" in levels), GLOBAL_DIM * ("global" in levels))
    head = registry.build(name, shapes, classes, 0.5, options)
    fit = registry.fitter(name)
    assert fit is not None
    assert isinstance(head, baselines.LinearHead)
    return head, fit(head, [batch], labels, weights, registry.options_of(name, options), 3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("variant", baselines.VARIANTS)
def test_it_answers_as_scikit_learn_does(variant: str, classes: int) -> None:
    batch, new = make_batch(), make_batch(1)
    labels = labels_of(batch, classes)
    head, loss = solve(variant, batch, labels, classes, C=0.3)
    kind = KINDS[variant.partition("_")[0]]
    other = kind(C=0.3, max_iter=10_000).fit(rows_of(batch, variant), labels.numpy())
    for one in (batch, new):
        logits = head(one).logits.detach().double()
        np.testing.assert_array_equal(logits.argmax(1).numpy(), other.predict(rows_of(one, variant)))
        if isinstance(other, LogisticRegression):
            expected = other.predict_proba(rows_of(one, variant))
            np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected, atol=1e-5)
        else:
            margins = other.decision_function(rows_of(one, variant))
            found = logits.numpy() if classes > 2 else (logits[:, 1] - logits[:, 0]).numpy()
            np.testing.assert_allclose(found, margins, atol=1e-5)
    assert not head.training
    expected_loss = torch.nn.functional.cross_entropy(head(batch).logits, labels).item()
    assert loss == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("variant", ["logistic", "svm"])
def test_weights_count_as_scikit_learns(variant: str) -> None:
    batch = make_batch()
    labels, weights = labels_of(batch, 3), torch.rand(N, generator=torch.Generator().manual_seed(2)) + 0.1
    head, loss = solve(variant, batch, labels, 3, weights)
    other = KINDS[variant](max_iter=10_000)
    other.fit(rows_of(batch, ""), labels.numpy(), sample_weight=weights.double().numpy())
    np.testing.assert_allclose(head.classify.weight.detach().numpy(), other.coef_, atol=1e-4)
    plain, _ = solve(variant, batch, labels, 3)
    assert not torch.allclose(plain.classify.weight, head.classify.weight, atol=1e-3)
    each = torch.nn.functional.cross_entropy(head(batch).logits, labels, reduction="none")
    assert loss == pytest.approx(((each * weights).sum() / weights.sum()).item(), rel=1e-5)


@pytest.mark.parametrize("variant", ["logistic", "svm"])
@pytest.mark.parametrize("present", [[0, 3], [0, 1, 3]])
def test_a_class_without_a_sample_is_never_the_answer(variant: str, present: list[int]) -> None:
    batch = make_batch()
    labels = torch.tensor(present)[labels_of(batch, len(present))]
    head, loss = solve(variant, batch, labels, 5)
    probabilities = torch.softmax(head(make_batch(2)).logits, 1)
    absent = [i for i in range(5) if i not in present]
    assert not probabilities[:, absent].any()
    assert torch.isfinite(probabilities).all()
    assert np.isfinite(loss)
    assert set(probabilities.argmax(1).tolist()) == set(present)


def test_the_same_seed_gives_the_same_bits() -> None:
    batch = make_batch()
    for variant in ("logistic", "svm"):
        first, second = (solve(variant, batch, labels_of(batch, 3), 3)[0] for _ in range(2))
        assert torch.equal(first.classify.weight, second.classify.weight)


def test_it_is_kept_as_every_head_is(tmp_path: Path) -> None:
    batch = make_batch()
    head, _ = solve("logistic", batch, labels_of(batch, 3), 3)
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    again = registry.build("baselines:logistic", registry.Shapes(FACE_DIM, GLOBAL_DIM), 3, 0.0)
    again.load_state_dict(load_file(tmp_path / "head.safetensors"))
    assert torch.equal(again(batch).logits, head(batch).logits)


def test_faces_count_alike() -> None:
    batch = make_batch()
    head, _ = solve("svm_faces", batch, labels_of(batch, 3), 3)
    attention = head(batch).attention
    assert torch.equal(attention[3], torch.full((3,), 1 / 3))
    assert attention[2].tolist() == [0.5, 0.5, 0]
    assert not attention[4].any()


def test_one_class_only_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than two classes"):
        solve("svm", make_batch(), torch.ones(N, dtype=torch.int64), 3)


def test_a_sample_of_several_labels_is_refused() -> None:
    with pytest.raises(DataError, match="no label, or several"):
        solve("svm", make_batch(), torch.arange(N) % 3 - 1, 3)


def test_a_feature_that_is_not_finite_is_refused() -> None:
    batch = make_batch()
    batch.global_[5, 1] = float("nan")
    with pytest.raises(DataError, match="training sample 5 has a feature that is not finite"):
        solve("logistic", batch, labels_of(make_batch(), 3), 3)


@pytest.mark.parametrize("variant", ["logistic", "svm"])
def test_a_solver_that_does_not_end_says_so(variant: str) -> None:
    batch = make_batch()
    with pytest.raises(SettingError, match=r"not solved in 1 iterations \(C is 100\); raise options\.max_iter"):
        solve(variant, batch, labels_of(batch, 3), 3, C=100.0, max_iter=1)


def test_options_are_checked() -> None:
    with pytest.raises(SettingError, match=r"options\.C of head baselines:svm: .*greater than 0"):
        registry.options_of("baselines:svm", {"C": 0})


@pytest.mark.parametrize("variant", ["logistic", "svm"])
def test_a_class_that_counts_nothing_is_as_one_without_a_sample(
    variant: str, capfd: pytest.CaptureFixture[str]
) -> None:
    batch = make_batch()
    labels = labels_of(batch, 3)
    head, loss = solve(variant, batch, labels, 3, (labels != 1).float())
    assert head.classify.bias[1] == baselines.ABSENT
    assert loss < 1
    assert capfd.readouterr() == ("", "")


def test_samples_may_come_in_several_batches() -> None:
    """A large split is never in memory as one batch: its faces take more than their means."""
    batch = make_batch()
    labels = labels_of(batch, 3)
    parts = [
        HeadBatch.of_parts({name: tensor[start : start + 7] for name, tensor in batch.parts().items()})
        for start in range(0, N, 7)
    ]
    found = []
    for batches in ([batch], iter(parts)):
        head = registry.build("baselines:logistic", registry.Shapes(FACE_DIM, GLOBAL_DIM), 3, 0.5)
        options = registry.options_of("baselines:logistic", {})
        loss = baselines.fit(head, batches, labels, None, options, 0)
        found.append([*head.state_dict().values(), torch.tensor(loss)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
