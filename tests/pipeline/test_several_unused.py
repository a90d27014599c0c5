"""`train` says which samples of several labels train nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from pipeline.steps import _several_unused
from stages.index.manifest import Manifest, Sample


@pytest.mark.parametrize(
    ("labels", "loss", "warned"),
    [
        ((("a", "b"), ("a",), ()), "", True),
        ((("a",), ("b",), ()), "", False),
        ((("a", "b"), ("a",), ()), "{kind: multi_label}", False),
    ],
)
def test_samples_of_several_labels(
    tmp_path: Path, labels: tuple[tuple[str, ...], ...], loss: str, warned: bool
) -> None:
    text = files(ProjectData("folder", "photos"))["params.yaml"]
    if loss:
        text = text.replace("learning_rate: 0.001\n", f"learning_rate: 0.001\n      loss: {loss}\n")
        text = text.replace("kind: baselines:logistic\n", f"kind: gupta2018:average\n      loss: {loss}\n")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    samples = [Sample(f"{i}", f"{i}.jpg", "image", of, "train", "", "", (), f"{i:064x}") for i, of in enumerate(labels)]
    Manifest(tuple(samples)).write(tmp_path / "artifacts" / "manifest.csv")
    said = _several_unused(Project(tmp_path))
    assert len(said) == warned
    if warned:
        assert said[0].startswith(
            "  warning: 1 of 2 training samples have several labels and train nothing in average, "
        )
        assert said[0].endswith("set loss: {kind: multi_label} there")
