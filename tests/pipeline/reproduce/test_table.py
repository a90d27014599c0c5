"""A table over predictions on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.reproduce.recipe import load
from pipeline.reproduce.table import members_of, table_of, verdict_of
from stages import predictions
from stages.errors import DataError, MissingInputError
from stages.evaluate.cells import Difference
from stages.index.manifest import Manifest, Sample
from stages.predictions import Kind, Predictions, split_name

CLASSES = ("happy", "sad")
FOLDER: dict[Kind, str] = {"head": "heads", "finetuned": "finetuned", "fused": "fused"}


def manifest(n: int = 20) -> Manifest:
    return Manifest(
        tuple(
            Sample(
                sample_id=f"s{i:02d}",
                path=f"s{i:02d}.png",
                media="image",
                labels=(CLASSES[i % 2],),
                split="test",
                group="",
                subset="",
                boxes=(),
                content=f"{i:064x}",
            )
            for i in range(n)
        )
    )


def write(project: Path, kind: Kind, name: str, right: int, *, sure: float = 0.9, seen: int = 0) -> None:
    """A member that is right about the first so many samples."""
    samples = manifest().samples
    head, seed = split_name(name, kind)
    columns = [i % 2 if i < right else 1 - i % 2 for i in range(len(samples))]
    answers = Predictions(
        name=name,
        kind=kind,
        head=head,
        seed=seed,
        sample_ids=tuple(one.sample_id for one in samples),
        splits=tuple(one.split for one in samples),
        labels=tuple(one.labels for one in samples),
        classes=CLASSES,
        probabilities=np.array([[sure if c == column else 1 - sure for c in (0, 1)] for column in columns]),
        seen=np.arange(len(samples)) < seen,
    )
    predictions.write(project / "artifacts" / "predictions" / FOLDER[kind] / f"{name}.csv", answers)


@pytest.fixture
def folders(tiny: Path, tmp_path: Path) -> dict[str, Path]:
    """The two projects as after a run of `tiny`."""
    second = tmp_path / "tiny-second"
    (second / "artifacts").mkdir(parents=True)
    manifest().write(second / "artifacts" / "manifest.csv")
    write(second, "finetuned", "net-s0", 18)
    write(second, "head", "logistic-s0", 10)
    write(second, "head", "logistic-s1", 8)
    write(second, "fused", "both", 12)
    return {"tiny-first": tmp_path / "tiny-first", "tiny-second": second}


def test_each_cell_has_its_number(folders: dict[str, Path]) -> None:
    table = table_of(load("tiny"), folders)
    ours = {place: (one.ours.value, one.ours.n, one.ours.seeds) for place, one in table.numbers.items() if one.ours}
    assert ours == {
        ("Net", "accuracy"): (0.9, 20, 1),
        ("Net", "happy"): (0.9, 10, 1),
        ("Logistic", "accuracy"): (0.45, 20, 2),
        ("Logistic", "happy"): (0.45, 10, 2),
        ("Both", "accuracy"): (0.6, 20, 1),
    }
    theirs = table.numbers["Theirs", "accuracy"]
    assert (theirs.paper, theirs.quoted, theirs.ours) == (70.0, True, None)
    assert ("Both", "happy") not in table.numbers
    assert not any(one.copy_of or (one.ours and one.ours.constant) for one in table.numbers.values())
    (pair,) = table.compared
    assert (pair.paper, pair.verdict) == (11.5, "same")
    assert pair.ours.value == pytest.approx(0.45)


def test_a_member_with_one_answer_decides_nothing(tiny: Path, folders: dict[str, Path]) -> None:
    place = folders["tiny-second"] / "artifacts" / "predictions" / "heads"
    for seed in (0, 1):
        (place / f"logistic-s{seed}.csv").unlink()
    write(folders["tiny-second"], "head", "logistic-s0", 10)
    text = (place / "logistic-s0.csv").read_text().splitlines()
    (place / "logistic-s0.csv").write_text(
        "\n".join([text[0], *(f"{one.rsplit(',', 2)[0]},0.9,0.1" for one in text[1:])])
    )
    table = table_of(load("tiny"), folders, trial=True)
    found = table.numbers["Logistic", "accuracy"].ours
    assert found is not None
    assert found.constant
    assert table.compared[0].ours.low is not None
    assert table.compared[0].ours.low > 0
    assert table.compared[0].verdict == "undetermined"
    assert table.trial


def test_a_copy_is_named_and_a_member_in_two_places_is_none(tiny: Path, folders: dict[str, Path]) -> None:
    for seed in (0, 1):
        (folders["tiny-second"] / "artifacts" / "predictions" / "heads" / f"logistic-s{seed}.csv").unlink()
    write(folders["tiny-second"], "head", "logistic-s0", 18)
    table = table_of(load("tiny"), folders)
    assert {place: one.copy_of for place, one in table.numbers.items() if one.copy_of} == {
        ("Logistic", "accuracy"): "Net",
        ("Logistic", "happy"): "Net",
    }
    assert table.compared[0].verdict == "undetermined"
    text = (tiny / "tiny.yaml").read_text()
    (tiny / "tiny.yaml").write_text(text.replace("member: logistic", "member: net"))
    assert not any(one.copy_of for one in table_of(load("tiny"), folders).numbers.values())


def test_a_copy_in_another_column_of_the_row_is_named_too(tiny: Path, folders: dict[str, Path]) -> None:
    text = (tiny / "tiny.yaml").read_text().replace("metric: recall, label: happy", "metric: accuracy")
    text = text.replace("cells: {accuracy: 71.5}", "cells: {accuracy: 71.5, happy: {member: both}}")
    (tiny / "tiny.yaml").write_text(text)
    write(folders["tiny-second"], "fused", "both", 18)
    numbers = table_of(load("tiny"), folders).numbers
    assert {place: one.copy_of for place, one in numbers.items() if one.copy_of} == {
        ("Net", "happy"): "accuracy",
        ("Both", "accuracy"): "Net",
    }


def test_a_constant_is_seen(folders: dict[str, Path]) -> None:
    path = folders["tiny-second"] / "artifacts" / "predictions" / "fused" / "both.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(",".join([*row.split(",")[:3], "0.7", "0.3"]) for row in rows), ""]))
    numbers = table_of(load("tiny"), folders).numbers
    assert [place for place, one in numbers.items() if one.ours and one.ours.constant] == [("Both", "accuracy")]


def test_what_was_seen_is_no_number(folders: dict[str, Path]) -> None:
    write(folders["tiny-second"], "finetuned", "net-s0", 18, seen=3)
    with pytest.raises(DataError, match=r"^Net, accuracy: net in split test has seen 3 of the 20 samples"):
        table_of(load("tiny"), folders)


def test_members_by_name_seed_and_kind(folders: dict[str, Path]) -> None:
    artifacts = folders["tiny-second"] / "artifacts"
    write(folders["tiny-second"], "head", "logistic-small-s0", 3)
    write(folders["tiny-second"], "finetuned", "net.top3-s0", 5)
    assert [one.name for one in members_of(artifacts, "logistic")] == ["logistic-s0", "logistic-s1"]
    assert [one.name for one in members_of(artifacts, "logistic-s1")] == ["logistic-s1"]
    assert [one.name for one in members_of(artifacts, "net")] == ["net-s0"]
    assert [one.name for one in members_of(artifacts, "net.top3")] == ["net.top3-s0"]
    assert [(one.name, one.kind) for one in members_of(artifacts, "both")] == [("both", "fused")]
    with pytest.raises(MissingInputError, match="has no log: run kuleshov reproduce run again"):
        members_of(artifacts, "log")


def test_a_project_that_was_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"manifest\.csv"):
        table_of(load("tiny"), folders | {"tiny-second": tmp_path / "none"})


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "same"),
        (-0.2, -0.01, "reversed"),
        (-0.1, 0.1, "undetermined"),
        (0.0, 0.1, "undetermined"),
        (-0.1, 0.0, "undetermined"),
        (None, None, "undetermined"),
    ],
)
def test_an_interval_says_what_an_order_is(low: float | None, high: float | None, verdict: str) -> None:
    assert verdict_of(Difference(0.05, low, high, 10)) == verdict
