"""What a head's features have seen, from the notes of their blocks: refused, marked, and not counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.store import Store
from stages import predictions
from stages.errors import DataError, MissingInputError
from stages.extract.notes import SEEN
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.finetune.seen import Rows, Seen, encode, group_hash
from stages.ledger import Ledger
from stages.train.run import TrainedHead, run
from stages.train.settings import TrainSettings

MakeSettings = Callable[..., TrainSettings]
EXTRACT = ExtractSettings(
    backbones={
        "resnet29": BackboneSettings(taps=("embedding", "wide"), finetuned="local"),
        "effnet_lite0": BackboneSettings(taps=("pooled", "map")),
    }
)


def seen(weights: str, trained: Rows, stopped: Rows = Rows()) -> Seen:  # noqa: B008 - it is frozen
    return Seen(weights, trained, stopped, {}, None, ("calm", "glad"), 0, "weights")


def rows(world: Any, names: Sequence[str]) -> Rows:
    return Rows.of([sample for sample in world.samples if sample.sample_id in names])


def note(world: Any, role: str, tap: str, content: bytes) -> None:
    """Give a block of the world a note."""
    spec = world.inputs().plans[role].blocks[tap]
    world.store.writer(spec, notes={SEEN: content})


def train(
    world: Any, settings: TrainSettings, artifacts: Path, judged: str = "test", extract: ExtractSettings = EXTRACT
) -> list[TrainedHead]:
    return run(world.inputs(extract=extract), settings, artifacts, Ledger("train"), judged)


def of_split(world: Any, split: str) -> list[str]:
    return [sample.sample_id for sample in world.samples if sample.split == split]


def test_a_head_whose_features_have_seen_what_is_judged_is_refused(
    populated: Any, train_settings: MakeSettings, tmp_path: Path
) -> None:
    some = sorted(of_split(populated, "test"))[3:6]
    note(populated, "resnet29", "embedding", encode(seen("a" * 64, rows(populated, some))))
    before = tmp_path / "predictions" / "heads" / "earlier-s0.csv"
    before.parent.mkdir(parents=True)
    before.write_text("kept")
    words = (
        rf"^train\.heads\.average: fine-tune local of extract\.backbones\.resnet29 has seen 3 of the 10 samples of "
        rf"split test, by content or group \(first {some[0]}\): they are not held out; fine-tune again with this "
        rf"split, set evaluate\.split, or, where a file or group is in the training split as well .*$"
    )
    with pytest.raises(DataError, match=words):
        train(populated, train_settings(["average"]), tmp_path)
    assert before.read_text() == "kept"
    with pytest.raises(DataError, match="has seen 3 of the 10"):  # a script that does not say what is judged
        run(populated.inputs(extract=EXTRACT), train_settings(["average"]), tmp_path, Ledger("train"))


@pytest.mark.parametrize("how", ["content", "group", "stopped", "global block"])
def test_content_group_and_what_chose_when_to_stop_all_count(
    populated: Any, train_settings: MakeSettings, tmp_path: Path, how: str
) -> None:
    judged = of_split(populated, "test")[0]
    if how == "group":
        populated.samples = [replace(s, group="film" if s.sample_id == judged else "") for s in populated.samples]
    found = Rows(groups=frozenset({group_hash("film")})) if how == "group" else rows(populated, [judged])
    trained, stopped = (Rows(), found) if how == "stopped" else (found, Rows())
    if how == "global block":
        note(populated, "effnet_lite0", "pooled", encode(seen("b" * 64, trained)))
        trained = Rows()
    note(populated, "resnet29", "embedding", encode(seen("a" * 64, trained, stopped)))
    of = "the fine-tune of extract.backbones.effnet_lite0" if how == "global block" else "fine-tune local of"
    with pytest.raises(DataError, match=rf"{of}.* has seen 1 of the 10 samples .*\(first {judged}\)"):
        train(populated, train_settings(["average"]), tmp_path)


def test_only_heads_that_read_the_features_are_refused(
    populated: Any, train_settings: MakeSettings, tmp_path: Path
) -> None:
    note(populated, "resnet29", "wide", encode(seen("a" * 64, rows(populated, of_split(populated, "test")))))
    note(populated, "resnet29", "embedding", encode(seen("a" * 64, rows(populated, of_split(populated, "train")))))
    assert train(populated, train_settings(["average"]), tmp_path)[0].left_out == {}
    with pytest.raises(DataError, match=r"has seen 10 of the 10 samples of split test"):
        train(populated, train_settings(["average"], faces=["resnet29/embedding", "resnet29/wide"]), tmp_path)


def test_what_was_seen_is_marked_and_not_counted(populated: Any, train_settings: MakeSettings, tmp_path: Path) -> None:
    val = sorted(of_split(populated, "val"))
    known = [*of_split(populated, "train"), *val[:4]]
    note(populated, "resnet29", "embedding", encode(seen("a" * 64, rows(populated, known))))
    [head] = train(populated, train_settings(["average"]), tmp_path)
    member = predictions.read(tmp_path / "predictions" / "heads" / "average-s0.csv")
    assert [i for i, seen in zip(member.sample_ids, member.seen, strict=True) if seen] == sorted(known)
    right = {
        sample_id: member.classes[int(row.argmax())] == label
        for sample_id, (label,), row in zip(member.sample_ids, member.labels, member.probabilities, strict=True)
    }
    assert head.left_out == {"val": (4, 10)}
    assert head.accuracy["val"] == pytest.approx(np.mean([right[one] for one in val[4:]]))
    assert head.accuracy["train"] == pytest.approx(np.mean([right[one] for one in of_split(populated, "train")]))


def test_a_split_that_was_seen_whole_has_no_accuracy(
    populated: Any, train_settings: MakeSettings, tmp_path: Path
) -> None:
    note(populated, "resnet29", "embedding", encode(seen("a" * 64, rows(populated, of_split(populated, "val")))))
    [head] = train(populated, train_settings(["average"]), tmp_path)
    assert head.left_out == {"val": (10, 10)}
    assert set(head.accuracy) == {"train", "test"}


def test_a_fine_tuned_role_without_a_note_is_not_trusted(
    populated: Any, train_settings: MakeSettings, tmp_path: Path
) -> None:
    words = r"resnet29/embedding: what fine-tune local has seen is not known .* run kuleshov extract resnet29$"
    with pytest.raises(MissingInputError, match=words):
        train(populated, train_settings(["average"]), tmp_path)
    plain = populated.inputs().extract
    assert train(populated, train_settings(["average"]), tmp_path, extract=plain)[0].left_out == {}
    assert not (tmp_path / "predictions" / "heads" / "seen").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read"),
        (b"[]", "does not say what a fine-tune has seen"),
        (b'{"schema": 1}', "is damaged"),
        (encode(seen("c" * 64, Rows())), f"tells of weights of sha256 {'c' * 12}, not of the block's"),
    ],
)
def test_a_damaged_note_is_named(
    populated: Any, train_settings: MakeSettings, tmp_path: Path, content: bytes, words: str
) -> None:
    note(populated, "resnet29", "embedding", content)
    remedy = r".*delete it from the store and run kuleshov extract resnet29$"
    with pytest.raises(DataError, match=rf"^seen\.json of block resnet29-embedding-face-\w+ {words}{remedy}"):
        train(populated, train_settings(["average"]), tmp_path)


def test_a_shared_store_tells_as_well(populated: Any, train_settings: MakeSettings, tmp_path: Path) -> None:
    note(populated, "resnet29", "embedding", encode(seen("a" * 64, rows(populated, of_split(populated, "test")))))
    populated.inputs()
    populated.store = Store(tmp_path / "own", [populated.store.root])
    with pytest.raises(DataError, match="has seen 10 of the 10"):
        train(populated, train_settings(["average"]), tmp_path)
