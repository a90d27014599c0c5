from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.errors import DataError, MissingInputError
from stages.finetune.seen import Rows, Seen, group_hash, overlap, place, read, sha256_of, write
from stages.index.manifest import Sample


def content(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def sample(name: str, group: str = "", of: str | None = None) -> Sample:
    return Sample(name, f"{name}.png", "image", ("glad",), "train", group, "", (), content(of or name))


TRAINED = [sample("a", "film 1"), sample("b", "film 1"), sample("c")]
STOPPED = [sample("d", "film 2")]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "global.safetensors"
    path.write_bytes(b"some weights")
    return path


@pytest.fixture
def known(weights: Path) -> Seen:
    return Seen(
        weights=sha256_of(weights),
        trained=Rows.of(TRAINED),
        stopped=Rows.of(STOPPED),
        settings={"epochs": 3, "augment": {"flip": True, "area": [0.08, 1.0]}},
        preset="gupta-global",
        classes=("calm", "glad"),
        seed=4,
        start="weights",
    )


def test_what_is_written_is_read(weights: Path, known: Seen) -> None:
    path = write(weights, known)
    assert path == place(weights) == weights.with_name("global.seen.json")
    assert read(weights) == known
    assert sorted(weights.parent.iterdir()) == [weights, path]
    chained = replace(known, preset=None, start="finetune:local").after(known)
    write(weights, chained)
    assert read(weights) == chained


def test_equal_facts_are_equal_bytes(weights: Path, known: Seen) -> None:
    write(weights, known)
    first = place(weights).read_bytes()
    settings = dict(reversed(list(known.settings.items())))
    write(weights, replace(known, trained=Rows.of(reversed(TRAINED)), settings=settings))
    assert place(weights).read_bytes() == first
    assert json.loads(first)["trained"] == {
        "contents": sorted(map(content, "abc")),
        "groups": [group_hash("film 1")],
    }
    assert b"film 1" not in first, "it may be somebody's name"


def test_groups_by_name_of_an_earlier_version_are_read(weights: Path, known: Seen) -> None:
    write(weights, known)
    about = json.loads(place(weights).read_bytes())
    about["schema"], about["trained"]["groups"], about["stopped"]["groups"] = 1, ["film 1"], ["film 2"]
    place(weights).write_text(json.dumps(about))
    assert read(weights) == known


def test_samples_of_seen_photos_and_groups_are_found(known: Seen) -> None:
    samples = [
        sample("x"),
        sample("other name", of="a"),
        sample("y", "film 1"),
        sample("z", "film 3"),
        sample("d2", of="d"),
        sample("w", "film 2"),
        sample("c"),
    ]
    assert overlap(known, samples).tolist() == [1, 2, 4, 5, 6]
    assert overlap(known, samples, stopped=False).tolist() == [1, 2, 6]
    assert overlap(known, []).tolist() == []
    assert overlap(known, samples).dtype == "int64"


def test_no_group_is_no_group(known: Seen) -> None:
    assert "" not in known.trained.groups
    assert overlap(known, [sample("new", "")]).tolist() == []


def test_a_chain_has_seen_what_each_of_it_has_seen(known: Seen) -> None:
    early = replace(known, weights="1" * 64, trained=Rows.of([sample("p", "film 7")]), stopped=Rows.of([sample("q")]))
    middle = replace(known, weights="2" * 64).after(early)
    last = replace(known, weights="3" * 64, trained=Rows.of([sample("r")]), stopped=Rows()).after(middle)
    assert last.chain == ("2" * 64, "1" * 64)
    assert last.weights == "3" * 64
    assert last.classes == known.classes
    seen = [sample(name) for name in "pqrabcd"]
    assert overlap(last, [*seen, sample("new", "film 7"), sample("new", "film 1")]).tolist() == list(range(9))
    assert overlap(last, seen, stopped=False).tolist() == [0, 2, 3, 4, 5]
    assert overlap(replace(known, weights="3" * 64), [sample("p")]).tolist() == []


def test_other_weights_are_refused(weights: Path, known: Seen) -> None:
    with pytest.raises(ValueError, match="is not the file of"):
        write(weights, replace(known, weights="0" * 64))
    assert not place(weights).exists()
    write(weights, known)
    weights.write_bytes(b"other weights")
    with pytest.raises(DataError, match=rf"weights of sha256 {known.weights[:12]}, but global.safetensors has"):
        read(weights)


def test_missing_files_are_named(weights: Path, known: Seen) -> None:
    with pytest.raises(MissingInputError, match=r"global.seen.json is not there.*kuleshov finetune"):
        read(weights)
    write(weights, known)
    weights.unlink()
    with pytest.raises(MissingInputError, match=r"global.safetensors is not there; run kuleshov finetune"):
        read(weights)
    with pytest.raises(MissingInputError, match=r"global.safetensors is not there"):
        write(weights, known)


def change(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda about: about.update(values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda about: about.pop("trained"),
        lambda about: about.pop("seed"),
        change(trained={"contents": ["abc"], "groups": []}),
        change(trained={"contents": "ab", "groups": []}),
        change(trained=[]),
        change(stopped={"contents": [], "groups": [3]}),
        change(stopped={"contents": [], "groups": ["film 2"]}),
        change(settings=[]),
        change(seed="3"),
        change(seed=True),
        change(preset=3),
        change(classes="calm"),
        change(start=None),
        change(chain=["short"]),
        change(weights=3),
    ],
)
def test_a_damaged_file_is_refused(weights: Path, known: Seen, damage: Callable[[dict[str, Any]], object]) -> None:
    path = write(weights, known)
    about = json.loads(path.read_bytes())
    damage(about)
    path.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(DataError, match=r"global.seen.json is damaged \(.*\); run kuleshov finetune again"):
        read(weights)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(weights: Path, content: bytes) -> None:
    place(weights).write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read \(.*run kuleshov finetune again"):
        read(weights)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"schema": "1"}', b"3"])
def test_another_file_is_refused(weights: Path, content: bytes) -> None:
    place(weights).write_bytes(content)
    with pytest.raises(DataError, match="does not say what a fine-tune has seen"):
        read(weights)


def test_a_newer_file_is_refused(weights: Path, known: Seen) -> None:
    path = write(weights, known)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"schema": 3}), encoding="utf-8")
    with pytest.raises(DataError, match="schema 3, this version reads up to 2; upgrade kuleshov"):
        read(weights)


def test_a_write_that_fails_leaves_the_old_file(weights: Path, known: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(weights, known)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(weights, replace(known, seed=5))
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="JSON"):
        write(weights, replace(known, settings={"rate": float("nan")}))
    assert path.read_bytes() == before
