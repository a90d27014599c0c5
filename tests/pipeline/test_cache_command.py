"""`kuleshov cache` on a small project whose rows the real stages wrote."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.keys import item_key
from cache.store import Store
from pipeline.cli import main_group
from pipeline.scaffold.write import ProjectData, files
from stages.backbones.weights import ENVIRONMENT
from stages.detect.run import SIZE_SPEC
from stages.index.drawn.scenes import draw_scene

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, a wall without a face and a broken photo, indexed, detected, aligned and extracted; its own store."""
    place = tmp_path_factory.mktemp("project")
    for index in range(2):
        draw_scene(8, index).image.save(place / f"{index}.png")
    draw_scene(8, 0).image.crop((0, 0, 40, 40)).save(place / "wall.png")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    lines = ["path,sample_id,label,split", "0.png,s0,glad,train", "1.png,s1,sad,train", "wall.png,wall,sad,train"]
    (place / "labels.csv").write_text("\n".join([*lines, "broken.jpg,broken,sad,train", ""]))
    text = files(ProjectData("csv", "labels.csv"))["params.yaml"]
    (place / "params.yaml").write_text(text.replace("max_failures: 5%", "max_failures: 2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KULESHOV_STORE", str(place / "store"))
        for command in ("index", "detect", "align", "extract resnet29"):
            main_group.main(["-C", str(place), *command.split()], standalone_mode=False)
    return place


@pytest.fixture
def cache(project: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("KULESHOV_STORE", str(project / "store"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        return kuleshov("-C", project, "cache", *arguments)

    return run


def lines_of(said: str) -> dict[str, str]:
    """Block name -> what is said of it, without the level."""
    return {m[1]: m[2] for m in re.finditer(r"^(\S+/\S+) \(\w+\): (.*)$", said, re.M)}


def test_why_says_hit_with_status_rows_and_key(cache: Run) -> None:
    status, out, _ = cache("why", "s0")
    assert status == 0
    said = lines_of(out)
    assert said["media/size"] == f"hit, ok, 1 row, key {SIZE_SPEC.key[:16]}"
    assert "media/times" not in said, "there are no clips"
    assert re.fullmatch(r"hit, ok, \d rows, key [0-9a-f]{16}", said["mtcnn/boxes"])
    assert said["resnet29/embedding"].startswith("hit, ok, ")
    assert said["effnet_lite0/pooled"] == "miss, kuleshov extract effnet_lite0 computes it"
    assert "  there is no other block of effnet_lite0/pooled at level global" in out.splitlines()


def test_why_of_photos_without_faces_and_of_broken_ones(cache: Run) -> None:
    said = lines_of(cache("why", "wall")[1])
    assert said["mtcnn/boxes"].startswith("hit, no_face, 0 rows, key ")
    assert said["resnet29/embedding"] == "no item, no face was found in this photo"
    said = lines_of(cache("why", "broken")[1])
    assert re.match(r"hit, \w+, 0 rows, key \w+ \(.+\); kuleshov cache retry forgets it$", said["mtcnn/boxes"])
    for name in ("resnet29/embedding", "effnet_lite0/pooled"):
        assert said[name].startswith("no item, detection failed (")


def test_why_of_a_clip_that_cannot_be_read(tmp_path: Path, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times failed, so it has no size, no boxes and no features: there is nothing to run."""
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    (tmp_path / "labels.csv").write_text("path,sample_id,label,split\nbad.mp4,bad,glad,train\n")
    (tmp_path / "bad.mp4").write_text("only words\n" * 30)
    text = files(ProjectData("csv", "labels.csv"))["params.yaml"]
    (tmp_path / "params.yaml").write_text(text.replace("max_failures: 5%", "max_failures: 2"))
    assert [kuleshov("-C", tmp_path, command)[0] for command in ("index", "detect")] == [0, 0]
    status, out, _ = kuleshov("-C", tmp_path, "cache", "why", "bad")
    said = lines_of(out)
    assert status == 0
    assert list(said)[:3] == ["media/times", "media/size", "mtcnn/boxes"]
    assert said.pop("media/times").startswith("hit, not_a_clip, 0 rows, key ")
    assert set(said.values()) == {"no item, detection failed (not_a_clip)"}


def test_why_names_the_setting_that_changed(cache: Run, project: Path) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("min_face_size: 20", "min_face_size: 40"))
    try:
        _, out, _ = cache("why", "s0")
        _, block, _ = cache("why", "mtcnn/boxes")
        _, broken, _ = cache("why", "broken")
    finally:
        path.write_text(text)
    assert lines_of(out)["mtcnn/boxes"] == "miss, kuleshov detect computes it"
    assert lines_of(out)["media/size"].startswith("hit, ok")
    changed = re.findall(r"^    preprocessing\.min_face_size: 40 here, 20 in block mtcnn-boxes-face-\w{16}$", out, re.M)
    assert len(changed) == 1
    assert re.search(
        r"^    inputs\.detections: mtcnn/boxes \w{12} here, mtcnn/boxes \w{12} in block dlib150-", out, re.M
    )
    assert re.search(
        r"^    inputs\.crops: dlib150/pixels \w{12} here, dlib150/pixels \w{12} in block resnet", out, re.M
    )
    assert "ask for another mtcnn/boxes" in block
    said = lines_of(broken)
    assert said["mtcnn/boxes"] == "miss, kuleshov detect computes it"
    assert said["effnet_lite0/pooled"].startswith("no item, detection failed ("), "media/size remembers it"
    assert "preprocessing.min_face_size: 40 here, 20 in block" in block


def test_why_of_a_block_in_words(cache: Run, project: Path) -> None:
    status, out, _ = cache("why", "resnet29/embedding")
    assert status == 0
    assert "a row is a face, " in out
    assert "the settings of this project ask for this block" in out
    assert "\n  inputs.crops: dlib150/pixels " in out
    key = next(i.spec.key for i in Store(project / "store").blocks() if i.spec.source == "resnet29")
    assert cache("why", key[:10])[1] == out


def test_why_of_a_new_photo_in_a_known_block(cache: Run, project: Path) -> None:
    manifest = project / "artifacts" / "manifest.csv"
    text = manifest.read_text()
    content = next(line for line in text.splitlines() if line.startswith("s0,")).rpartition(",")[2]
    manifest.write_text(text.replace(content, "f" * 64))
    try:
        _, out, _ = cache("why", "s0")
    finally:
        manifest.write_text(text)
    assert lines_of(out)["media/size"] == "miss, kuleshov detect computes it"
    assert re.search(r"^  block media-size-frame-\w{16} has this key and 4 items, but not this one$", out, re.M)
    assert not Store(project / "store").open(SIZE_SPEC).has([item_key("f" * 64)]).any()


def test_why_without_weights_says_which_role_is_not_known(
    cache: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    status, out, _ = cache("why", "s0")
    assert status == 0
    assert lines_of(out)["mtcnn/boxes"].startswith("hit, ok")
    assert "resnet29/embedding" not in lines_of(out)
    assert out.splitlines()[-1].startswith("resnet29: its key is not known (")


def test_why_of_nothing_known_is_one_line(cache: Run) -> None:
    status, out, err = cache("why", "nobody")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "'nobody' is no sample of" in err


def test_why_of_a_block_outside_a_project(cache: Run, kuleshov: Run, tmp_path: Path) -> None:
    status, out, _ = kuleshov("-C", tmp_path, "cache", "why", "media/size")
    assert status == 0
    assert "is no project: nothing to compare it with" in out


@pytest.fixture
def copied(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of the project's store, to change."""
    shutil.copytree(project / "store", tmp_path / "store")
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


def test_verify_looks_at_every_block_and_at_shared_ones(
    copied: Store, kuleshov: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sum(info.shards for info in copied.blocks())
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "own"))
    monkeypatch.setenv("KULESHOV_STORE_SHARED", str(copied.root))
    (copied.place(SIZE_SPEC) / "block.json").write_text("{")
    [shard] = next(copied.root.glob("blocks/resnet29-*/shards")).iterdir()
    shard.write_bytes(b"short")
    status, out, err = kuleshov("cache", "verify")
    assert (status, out) == (1, f"{count - 2} shards are as written; 2 blocks have damage\n")
    first, second = sorted(err.splitlines())
    assert "media-size" in first
    assert shard.name in second


def test_gc_of_a_clean_store_frees_nothing(copied: Store, kuleshov: Run) -> None:
    assert kuleshov("cache", "gc") == (0, f"0 B (0 bytes) were freed in {copied.root}\n", "")


def test_gc_says_what_goes_and_a_dry_run_deletes_nothing(copied: Store, kuleshov: Run) -> None:
    names = [info.spec.name for info in copied.blocks()]
    place = copied.place(SIZE_SPEC)
    left = place / "shards" / f"{'a' * 24}.h5"
    left.write_bytes(b"12345")
    os.utime(left, (1, 1))
    status, out, _ = kuleshov("cache", "gc", "--dry-run", "--block", "media/size")
    assert status == 0
    assert f"would remove {place}: block media/size (4 items, 3 rows), " in out
    assert str(left) not in out, "it goes with its block, and counts once"
    assert left.exists()
    status, out, _ = kuleshov("cache", "gc")
    assert out == f"removed {left}: unrecorded shard, 5 B\n5 B (5 bytes) were freed in {copied.root}\n"
    assert not left.exists()
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    assert f"({size} bytes) were freed" in kuleshov("cache", "gc", "--block", "media/size")[1]
    assert [info.spec.name for info in copied.blocks()] == [name for name in names if name != "media/size"]


def test_gc_by_age_takes_no_young_block(copied: Store, kuleshov: Run) -> None:
    for path in (copied.place(SIZE_SPEC) / "journal").glob("*.json"):
        os.utime(path, (1, 1))
    assert "resnet29" not in kuleshov("cache", "gc", "--older-than", "1", "--block", "resnet29/embedding")[1]
    out = kuleshov("cache", "gc", "--older-than", "1")[1]
    assert len(out.splitlines()) == 2
    assert "block media/size" in out


def test_gc_by_no_age_is_refused(copied: Store, kuleshov: Run) -> None:
    status, out, err = kuleshov("cache", "gc", "--older-than", "nan")
    assert (status, out) == (2, "")
    assert "'--older-than': nan is not in the range x>=0" in err


@pytest.mark.parametrize("command", ["gc", "export", "retry"])
def test_an_unknown_block_is_one_line(copied: Store, kuleshov: Run, command: str, tmp_path: Path) -> None:
    before = sorted(copied.root.rglob("*"))
    place = (tmp_path / "out.h5",) if command == "export" else ()
    status, out, err = kuleshov("cache", command, *place, "--block", "nothing/here")
    assert (status, out) == (1, "")
    assert err.startswith("kuleshov: error: no block 'nothing/here' in ")
    assert len(err.splitlines()) == 1
    assert sorted(copied.root.rglob("*")) == before


def test_export_writes_every_block(copied: Store, kuleshov: Run, tmp_path: Path) -> None:
    out = tmp_path / "alles ü.h5"
    status, said, _ = kuleshov("cache", "export", out)
    infos = list(copied.blocks())
    assert (status, said) == (0, f"{out}: {len(infos)} blocks, {sum(i.rows for i in infos)} rows\n")
    found: list[str] = []
    with h5py.File(out) as file:
        file.visit(found.append)
    assert {name for name in found if name.count("/") == 2} == {f"{i.spec.level}/{i.spec.name}" for i in infos}
    status, _, err = kuleshov("cache", "export", out)
    assert status == 1
    assert "--force" in err
    assert kuleshov("cache", "export", out, "--force", "--block", "resnet29/embedding")[0] == 0
    with h5py.File(out) as file:
        assert list(file) == ["face"]


def test_export_of_pooled_features(copied: Store, kuleshov: Run, tmp_path: Path) -> None:
    status, said, _ = kuleshov("cache", "export", tmp_path / "f.npz")
    assert (status, said) == (0, f"{tmp_path / 'f.npz'}: 1 block, 2 items\n")
    with np.load(tmp_path / "f.npz") as archive:
        assert archive["face/resnet29/embedding/features"].shape == (2, 128)
    status, _, err = kuleshov("cache", "export", tmp_path / "g.npz", "--block", "dlib150/pixels")
    assert status == 1
    assert "dlib150/pixels is no feature vector (a row is 150x150x3); export it as .h5" in err


def test_export_to_an_unknown_form_is_one_line(copied: Store, kuleshov: Run, tmp_path: Path) -> None:
    status, _, err = kuleshov("cache", "export", tmp_path / "f.mat")
    assert status == 1
    assert "its ending is '.mat'; use .h5" in err


def test_parquet_names_what_to_install_or_is_what_npz_is(copied: Store, kuleshov: Run, tmp_path: Path) -> None:
    status, _, err = kuleshov("cache", "export", tmp_path / "f.parquet")
    if importlib.util.find_spec("pyarrow") is None:
        assert status == 1
        assert "pip install pyarrow" in err
        assert not (tmp_path / "f.parquet").exists()
        return
    assert status == 0, err
    table = importlib.import_module("pyarrow.parquet").read_table(tmp_path / "f.parquet").to_pydict()
    kuleshov("cache", "export", tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as archive:
        assert np.array_equal(np.array(table["features"], np.float32), archive["face/resnet29/embedding/features"])
        keys = [bytes(key).hex() for key in archive["face/resnet29/embedding/item_keys"]]
        assert table["item"] == keys
        assert table["rows"] == archive["face/resnet29/embedding/counts"].tolist()
    assert set(table["block"]) == {"face/resnet29/embedding"}


def test_retry_forgets_failed_photos_and_the_next_run_tries_them(
    copied: Store, kuleshov: Run, project: Path, tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(project, place, ignore=shutil.ignore_patterns("store"))
    assert "4 photos, 0 computed, 3 from the store, 1 failed" in kuleshov("-C", place, "detect")[1]
    broken = next(row for row in (place / "artifacts" / "failures" / "detect.csv").read_text().splitlines()[1:])
    reason = broken.split(",")[1]
    assert kuleshov("cache", "retry", "--block", "resnet29/embedding")[1] == "nothing failed in 1 block\n"
    status, out, _ = kuleshov("cache", "retry")
    assert status == 0
    for name in ("media/size", "mtcnn/boxes"):
        assert re.search(rf"^{name} \w{{16}}: 1 failed item forgotten \({reason} 1\)$", out, re.M)
    assert out.endswith("\n2 items are tried again by the next run\n")
    assert "failed" not in kuleshov("cache", "retry")[1].replace("nothing failed", "")
    assert lines_of(kuleshov("-C", place, "cache", "why", "broken")[1])["media/size"].startswith("miss")
    assert "4 photos, 0 computed, 3 from the store, 1 failed" in kuleshov("-C", place, "detect")[1]
    assert reason in lines_of(kuleshov("-C", place, "cache", "why", "broken")[1])["media/size"]


def test_export_with_the_samples_of_the_project(cache: Run, project: Path, kuleshov: Run, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    assert cache("export", out, "--samples")[0] == 0
    with h5py.File(out) as file:
        found: dict[str, np.ndarray] = {}
        file.visititems(lambda name, one: found.update({name: one[()]} if isinstance(one, h5py.Dataset) else {}))
    assert found["samples/sample_id"].tolist() == [b"broken", b"s0", b"s1", b"wall"]
    for kind, block in (
        ("photo", "frame/media/size"),
        ("boxes", "face/mtcnn/boxes"),
        ("faces", "face/resnet29/embedding"),
    ):
        assert found[f"samples/{kind}_offsets"].tolist() == [0, 1, 2, 3, 4]
        keys = [bytes(key) for key in found[f"samples/{kind}_keys"]]
        there = {bytes(key) for key in found[f"{block}/item_keys"]}
        assert [key in there for key in keys] == [kind != "faces", True, True, kind != "faces"]
    status, _, err = cache("export", tmp_path / "f.npz", "--samples")
    assert status == 1
    assert "only .h5 takes --samples" in err
    status, _, err = kuleshov("-C", tmp_path, "cache", "export", tmp_path / "g.h5", "--samples")
    assert (status, len(err.splitlines())) == (1, 1)
    assert not (tmp_path / "g.h5").exists()
