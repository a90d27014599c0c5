"""`kuleshov cache verify --sample`: rows that are whole by their hash and wrong by their values are found."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cache.keys import FACES, BlockSpec, item_key
from cache.store import Store
from pipeline.cache_tools import Wanted
from pipeline.cli import main_group
from pipeline.scaffold.write import ProjectData, files
from pipeline.verify import Amount, Measure
from stages.index.drawn.scenes import draw_scene
from stages.index.manifest import Manifest, Sample

Run = Callable[..., tuple[int, str, str]]
Change = Callable[[np.ndarray, str], tuple[np.ndarray, str]]
"""Rows and status of an item -> what is written instead."""

BLOCKS = {"media/size", "mtcnn/boxes", "dlib150/pixels", "resnet29/embedding", "effnet_lite0/pooled"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small scenes, a wall without a face and a broken photo, extracted by two backbones; a store of its own."""
    place = tmp_path_factory.mktemp("project")
    for index in range(2):
        draw_scene(8, index).image.resize((160, 120)).save(place / f"{index}.png")
    draw_scene(8, 0).image.crop((0, 0, 40, 40)).save(place / "wall.png")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    lines = ["path,sample_id,label,split", "0.png,s0,glad,train", "1.png,s1,sad,train", "wall.png,wall,sad,train"]
    (place / "labels.csv").write_text("\n".join([*lines, "broken.jpg,broken,sad,train", ""]))
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv"))["params.yaml"])
    values["max_failures"] = "2"
    del values["extract"]["backbones"]["expression"]
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KULESHOV_STORE", str(place / "store"))
        for command in ("index", "detect", "align", "extract"):
            main_group.main(["-C", str(place), command], standalone_mode=False)
    return place


@pytest.fixture
def verify(project: Path, kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command over a copy of the store, `tmp_path/store`."""
    shutil.copytree(project / "store", tmp_path / "store")
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))

    def run(*arguments: str, folder: Path = project) -> tuple[int, str, str]:
        return kuleshov("-C", folder, "cache", "verify", *arguments)

    return run


def spec_of(store: Store, name: str) -> BlockSpec:
    return next(info.spec for info in store.blocks() if info.spec.name == name)


def key_of(project: Path, sample_id: str, *, faces: bool) -> bytes:
    sample = Manifest.read(project / "artifacts" / "manifest.csv").by_id[sample_id]
    return item_key(sample.content, region=FACES) if faces else item_key(sample.content)


def rewrite(store: Store, name: str, changes: dict[bytes, Change]) -> None:
    """A block with other values, through the store's own writer: every hash fits."""
    spec = spec_of(store, name)
    block = store.open(spec)
    items = [(bytes(key).ljust(16, b"\0"), *block.item(bytes(key).ljust(16, b"\0"))[:2]) for key in block.keys]
    items = [(key, rows.copy(), status) for key, rows, status in items]
    shutil.rmtree(store.place(spec))
    with store.writer(spec) as writer:
        for key, rows, status in items:
            rows, status = changes.get(key, lambda *same: same)(rows, status)
            writer.add(key, rows, status=status)


def lines_of(said: str) -> dict[str, str]:
    """Block's folder without its key -> what is said of it."""
    return {m[1]: m[2] for m in re.finditer(r"^(\w+-\w+)-\w+-\w{16}: (.*)$", said, re.M)}


def test_what_is_as_it_was_computed_passes(verify: Run) -> None:
    status, out, err = verify("--sample", "100%")
    assert (status, err) == (0, "")
    assert "blocks have damage\ncomputed again: 4 of 4 samples, seed 0\n" in out
    said = lines_of(out)
    assert set(said) == {name.replace("/", "-") for name in BLOCKS}
    assert said["media-size"] == "4 items, 3 rows, bit for bit equal"
    assert re.fullmatch(r"4 items, \d+ rows, bit for bit equal", said["mtcnn-boxes"])
    assert re.fullmatch(r"2 items, \d+ rows, bit for bit equal", said["resnet29-embedding"])
    assert re.search(r"^\d+ items compared, 0 off$", out, re.M)


def test_wrong_values_under_right_hashes_are_found(verify: Run, project: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def shifted(by: float, row: int = 0) -> Change:
        def change(rows: np.ndarray, status: str) -> tuple[np.ndarray, str]:
            rows[row] = rows[row] + np.array(by, rows.dtype)
            return rows, status

        return change

    s0, s1, wall = (key_of(project, name, faces=True) for name in ("s0", "s1", "wall"))
    rewrite(store, "resnet29/embedding", {s0: shifted(0.1, row=1), s1: shifted(0.1)})
    rewrite(store, "mtcnn/boxes", {s1: shifted(3.0), wall: lambda rows, _: (rows, "truncated")})
    rewrite(store, "effnet_lite0/pooled", {key_of(project, "s1", faces=False): lambda rows, _: (rows[:0], "ok")})
    rewrite(store, "media/size", {key_of(project, "s0", faces=False): shifted(1)})
    rewrite(store, "dlib150/pixels", {s0: lambda rows, status: (rows ^ 0x40, status)})
    status, out, err = verify("--sample", "100%")
    assert status == 1
    assert "0 blocks have damage" in out
    off = sorted(err.splitlines())
    for line, said in zip(
        off,
        (
            r"off: s0 in dlib150-pixels-face-\w{16}: (\d) of \1 rows; row \d by [\d.]+ in the mean of a row, 1 a.*",
            r"off: s0 in media-size-frame-\w{16}: 1 of 1 row; row 0 by 1 in a value, 0 allowed",
            r"off: s0 in resnet29-embedding-face-\w{16}: 1 of \d rows; row 1 by 0\.\d+ of a row's largest value, .*",
            r"off: s1 in effnet_lite0-pooled-global-\w{16}: ok, 0 rows in the store; now ok, 1 row",
            r"off: s1 in mtcnn-boxes-face-\w{16}: 1 of \d rows; row 0 by [\d.]+ of a box's longer side, 0\.005 allowed",
            r"off: wall in mtcnn-boxes-face-\w{16}: truncated, 0 rows in the store; now no_face, 0 rows",
        ),
        strict=True,
    ):
        assert re.fullmatch(said, line), line
    assert "detection differs in 2 samples: what stands on it was not compared there" in out
    assert lines_of(out)["resnet29-embedding"].startswith("1 item, ")
    assert "largest difference" in lines_of(out)["resnet29-embedding"]
    assert re.search(r"^\d+ items compared, 6 off$", out, re.M)


def test_the_tolerance_is_what_it_says(verify: Run, project: Path, tmp_path: Path) -> None:
    key = key_of(project, "s0", faces=True)
    change: Change = lambda rows, status: ((rows.astype(np.float64) * 1.002).astype(rows.dtype), status)  # noqa: E731
    rewrite(Store(tmp_path / "store"), "resnet29/embedding", {key: change})
    status, out, err = verify("--sample", "100%")
    assert (status, err) == (0, "")
    assert re.search(
        r"^resnet29-.*, largest difference 0\.00[12]\d* of a row's largest value, 0\.005 allowed$", out, re.M
    )
    status, _, err = verify("--sample", "100%", "--tolerance", "0.0008")
    assert status == 1
    assert re.match(r"off: s0 in resnet29-embedding-face-", err)


def test_photos_that_are_gone_are_said_and_not_counted(
    verify: Run, project: Path, kuleshov: Run, tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(project, place, ignore=shutil.ignore_patterns("store"))
    (place / "0.png").unlink()
    status, out, err = verify("--sample", "4", folder=place)
    assert (status, err) == (0, "")
    assert "s0 could not be computed again (missing: 0.png is not there any more): not counted" in out
    assert lines_of(out)["media-size"] == "3 items, 2 rows, bit for bit equal"
    for name in ("1.png", "wall.png", "broken.jpg"):
        (place / name).unlink()
    status, _, err = verify("--sample", "4", folder=place)
    assert status == 1
    assert "of 4 samples nothing could be compared (broken: missing: " in err


def test_a_small_sample_and_imported_features(verify: Run, project: Path, kuleshov: Run, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(project, place, ignore=shutil.ignore_patterns("store"))
    np.savez(tmp_path / "v.npz", sample_id=np.array(["s0"]), features=np.ones((1, 2)))
    _, out, _ = kuleshov("-C", place, "cache", "import", tmp_path / "v.npz", "--name", "v", "--level", "global")
    line = re.findall(r"^  imported: .*$", out, re.M)[0]
    path = place / "params.yaml"
    path.write_text(path.read_text().replace("\nextract:\n", f"\nextract:\n{line}\n"))
    status, out, _ = verify("--sample", "1%", "--seed", "3", folder=place)
    assert status == 0
    assert "computed again: 1 of 4 samples, seed 3" in out
    assert "not compared: imported/v: imported, so there is nothing to compute it from" in out


def test_damage_is_said_before_anything_is_computed(verify: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shard = next((store.place(spec_of(store, "media/size")) / "shards").glob("*.h5"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    status, out, err = verify("--sample", "1")
    assert status == 1
    assert err.startswith("damaged: ")
    assert "computed again" not in out


@pytest.mark.parametrize("given", ["0", "0%", "101%", "-1", "1.5", "x", "", "1 %", "nan%"])
def test_a_bad_sample_is_one_line(verify: Run, given: str) -> None:
    status, out, err = verify("--sample", given)
    assert (status, out) == (1, "")
    assert f"--sample is {given!r}: give a count from 1 on (20), or a percentage up to 100% (1%)" in err


def test_options_that_would_do_nothing_are_refused(verify: Run) -> None:
    for option in (("--seed", "1"), ("--tolerance", "0.1")):
        status, _, err = verify(*option)
        assert status == 2
        assert "give it too" in err


def test_a_tolerance_that_no_difference_is_over_is_refused(verify: Run) -> None:
    status, out, err = verify("--sample", "1", "--tolerance", "nan")
    assert (status, out) == (2, "")
    assert "'--tolerance': nan is not in the range 0<=x<=1" in err


def manifest(count: int) -> Manifest:
    return Manifest(
        tuple(Sample(f"s{i:04d}", "p", "image", (), "train", "", "", (), f"{i:064d}") for i in range(count))
    )


@pytest.mark.parametrize(
    ("text", "total", "drawn"),
    [("1%", 1000, 10), ("1%", 1001, 11), ("1%", 5, 1), ("7", 5, 5), ("3", 5, 3), ("100%", 5, 5), ("0.1%", 3000, 3)],
)
def test_how_many_are_drawn(text: str, total: int, drawn: int) -> None:
    assert len(Amount.parse(text).draw(manifest(total), 0)) == drawn


def test_a_seed_draws_the_same_and_another_draws_others() -> None:
    def ids(seed: int) -> list[str]:
        return [sample.sample_id for sample in Amount.parse("5").draw(manifest(500), seed)]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)


ROW = np.array([[10, 20, 50, 40, 0.9, *range(10)]], np.float32)


@pytest.mark.parametrize(
    ("kind", "fresh", "stored", "distance"),
    [
        ("f", [[2.0, -4.0]], [[2.0, -3.0]], 0.25),
        ("f", [[0.0, 0.0]], [[0.0, 0.0]], 0),
        ("f", [[0.0, 0.0]], [[0.0, 1e-9]], np.inf),
        ("f", [[1.0, 2.0]], [[np.nan, 2.0]], np.inf),
        ("f", [[np.nan, 2.0]], [[1.0, 2.0]], np.inf),
        ("f", [[np.nan, 2.0]], [[np.nan, 2.0]], 0),
        ("u", np.array([[[0, 255]]], np.uint8), np.array([[[255, 255]]], np.uint8), 127.5),
        ("i", np.array([[5, 9]], np.int32), np.array([[6, 7]], np.int32), 2),
        ("boxes", ROW, ROW + np.eye(1, 15, 0) * 4, 0.1),
        ("boxes", ROW, ROW + np.eye(1, 15, 9) * 2, 0.05),
        ("boxes", ROW, ROW - np.eye(1, 15, 4) * 0.5, 0.5),
        ("boxes", ROW * np.nan, ROW, np.inf),
    ],
)
def test_distances(kind: str, fresh: object, stored: object, distance: float) -> None:
    measure = Measure(kind, 0.005)
    found = measure.distances(np.asarray(stored), np.asarray(fresh))
    assert found.shape == (1,)
    assert found[0] == pytest.approx(distance, rel=1e-5)
    assert measure.distances(np.asarray(fresh)[:0], np.asarray(fresh)[:0]).shape == (0,)
    assert replace(measure, kind="f").allowed == 0.005
    assert (replace(measure, kind="u").allowed, replace(measure, kind="i").allowed) == (1, 0)


def test_a_step_of_bfloat16_is_not_off(tmp_path: Path) -> None:
    spec = BlockSpec("net", "embedding", "face", (1,), 1, numerics={"dtype": "bfloat16"})
    rows = []
    for number, value in enumerate((1.0039062, 1.0039064)):  # a bit apart, and rounded to 1 and 1.0078
        store = Store(tmp_path / str(number))
        with store.writer(spec) as writer:
            writer.add(item_key("a"), np.full((1, 1), value, np.float32))
        rows.append(store.open(spec).item(item_key("a"))[0])
    one, block = Wanted(spec, "faces", "extract net"), Store(tmp_path / "0").open(spec)
    apart = Measure.of(one, block, None).distances(*rows)
    assert 0.005 < apart[0] <= Measure.of(one, block, None).allowed
    assert Measure.of(one, block, 0.001).allowed == 0.001, "who says a tolerance gets it"


def test_other_views_are_compared_too(project: Path, verify: Run, tmp_path: Path, kuleshov: Run) -> None:
    place = tmp_path / "views"
    shutil.copytree(project, place, ignore=shutil.ignore_patterns("store"))
    values = yaml.safe_load((place / "params.yaml").read_text())
    values["extract"]["views"] = {"flip": True, "crops": 1}
    (place / "params.yaml").write_text(yaml.safe_dump(values))
    _, before, _ = verify("--sample", "100%")
    assert kuleshov("-C", place, "extract", "effnet_lite0")[0] == 0
    status, after, _ = verify("--sample", "100%", folder=place)
    assert status == 0
    counts = [int(re.search(r"effnet_lite0-pooled\S*: (\d+) items", text)[1]) for text in (before, after)]  # pyright: ignore
    assert counts == [3, 9]
