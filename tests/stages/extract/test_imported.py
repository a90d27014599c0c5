"""Features of somebody's own: which item a row becomes, and every file that is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from cache.errors import DamagedError
from cache.keys import LEVELS, box_region, item_key
from cache.store import Store
from stages.detect.faces import FaceItem, Faces
from stages.detect.run import Detections
from stages.errors import DataError, MissingInputError, SettingError
from stages.extract.imported import FaceItems, Imported, check_faces, find, run
from stages.extract.imported_file import INDEX, Level, read_table
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.ledger import Ledger
from stages.train.features import gather

IDS = ("a.png", "b.png", "c.png", "d.png", "twin.png")
Bring = Callable[..., Imported]


def npz(path: Path, ids: Any = IDS, features: Any = None, **more: Any) -> Path:
    """A file with a row for each of `ids`; the twin has the features of a.png."""
    if features is None:
        features = [[IDS.index(name) % 4 if name in IDS else 9, 0.5] for name in ids]
    np.savez(path, sample_id=np.array(ids), features=np.array(features), **more)
    return path


def face_rows(place: Any) -> dict[str, Any]:
    """Arguments of `npz`: two numbers a stored face, in reverse order."""
    rows = [(name, i) for name in IDS if name != "twin.png" for i in range(len(place.detections.faces(name)))][::-1]
    features = [[IDS.index(name), i] for name, i in rows]
    return {"ids": [name for name, _ in rows], "features": features, "face_index": np.array([i for _, i in rows])}


@pytest.fixture
def bring(place: Any) -> Bring:
    def do(path: Path, level: Level = "global", name: str = "voice", **changes: Any) -> Imported:
        faces = FaceItems(place.detections, "found") if level == "face" else None
        return run(path, name, level, place.manifest, place.store, **{"faces": faces} | changes)

    return do


def rows_of(place: Any, done: Imported, key: bytes) -> np.ndarray:
    return place.store.open(done.spec).item(key)[0]


def test_a_row_a_sample(place: Any, bring: Bring, tmp_path: Path) -> None:
    path = npz(tmp_path / "v.npz", ids=("d.png", "b.png", "a.png", "twin.png", "gone.png"))
    done = bring(path)
    assert (done.samples, done.rows, done.unknown, done.without) == (4, 4, ["gone.png"], ["c.png"])
    assert (done.spec.name, done.spec.level, done.spec.shape) == ("imported/voice", "global", (2,))
    assert done.spec.preprocessing == {"file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    for name, first in (("a.png", 0), ("b.png", 1), ("d.png", 3)):
        rows = rows_of(place, done, item_key(place.manifest.by_id[name].content))
        assert (rows.dtype, rows.tolist()) == (np.float32, [[first, 0.5]])
    assert len(place.store.open(done.spec)) == 3, "twins are one photo"


def test_frames_are_put_in_order(place: Any, bring: Bring, tmp_path: Path) -> None:
    features = [[20.0], [0.0], [10.0], [5.0]]
    path = npz(tmp_path / "v.npz", ["a.png", "a.png", "a.png", "b.png"], features, frame_index=np.array([2, 0, 1, 0]))
    done = bring(path, "frame")
    assert rows_of(place, done, item_key(place.manifest.by_id["a.png"].content)).tolist() == [[0], [10], [20]]
    assert (done.samples, done.rows) == (2, 4)


def test_faces_follow_the_stored_detections(place: Any, bring: Bring, tmp_path: Path) -> None:
    done = bring(npz(tmp_path / "v.npz", **face_rows(place)), "face")
    assert (done.samples, done.rows, done.without) == (3, 6, ["twin.png"]), "c.png has no face to give"
    assert rows_of(place, done, place.key("d.png")).tolist() == [[3, 0], [3, 1], [3, 2]]
    assert done.spec.inputs == {"detections": place.detections.key}
    assert done.spec.preprocessing["faces"] == "found"


def test_given_boxes_are_an_item_each(place: Any, tmp_path: Path) -> None:
    content = place.manifest.by_id["a.png"].content
    faces = Faces.from_rows(np.ones((1, 15), np.float32), (150, 150))
    keys = [item_key(content, region=box_region(i, 0, 9, 9)) for i in range(2)]
    detections = Detections({"a.png": [FaceItem(key, faces) for key in keys]}, {"a.png": (150, 150)}, {}, "k")
    path = npz(tmp_path / "v.npz", ["a.png", "a.png"], [[1.0], [2.0]], face_index=np.array([1, 0]))
    done = run(path, "v", "face", place.manifest, place.store, FaceItems(detections, "given"))
    assert [rows_of(place, done, key).tolist() for key in keys] == [[[2]], [[1]]]


def test_photos_without_detections_are_left_out(place: Any, tmp_path: Path) -> None:
    detections = Detections(
        {k: v for k, v in place.detections.items.items() if k != "b.png"},
        place.detections.sizes,
        {"b.png": ("truncated", "")},
        "k",
    )
    path = npz(tmp_path / "v.npz", **face_rows(place))
    done = run(path, "v", "face", place.manifest, place.store, FaceItems(detections, "found"))
    assert (done.undetected, done.samples) == (["b.png"], 2)
    none = Detections({}, {}, dict.fromkeys(IDS, ("truncated", "")), "k")
    with pytest.raises(DataError, match="none of its samples has detections"):
        run(path, "v", "face", place.manifest, place.store, FaceItems(none, "found"))


def test_training_reads_them_as_its_own(place: Any, bring: Bring, tmp_path: Path) -> None:
    voice = bring(npz(tmp_path / "v.npz", ids=IDS[:4]))
    mood = bring(npz(tmp_path / "m.npz", **face_rows(place)), "face", "mood")
    ledger = Ledger("train")
    found = gather(
        place.manifest.samples, place.store, place.detections, [mood.spec], [voice.spec], max_faces=9, ledger=ledger
    )
    assert [s.sample_id for s in found.samples] == list(IDS), "the twin has a.png's rows"
    batch = found.batch(np.arange(5))
    assert batch.global_[:, 0].tolist() == [0, 1, 2, 3, 0]
    assert batch.faces[batch.face_mask][:, 0].tolist() == [0, 0, 1, 3, 3, 3, 0, 0]
    assert not len(ledger)


def test_csv_and_npz_give_the_same_rows(place: Any, bring: Bring, tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    text = "\ufefflow,sample_id,face_index,high\r\n0.1,a.png,1,1e-3\r\n\r\n-2,a.png,0,4\r\n"
    path.write_bytes(text.encode())
    table = read_table(path, "face")
    assert (table.sample_ids, table.index.tolist()) == (["a.png", "a.png"], [1, 0])
    assert np.array_equal(table.features, np.array([[0.1, 1e-3], [-2, 4]], np.float32))
    done = bring(path, "face")
    features = [[0.1, 1e-3], [-2, 4]]
    other = bring(npz(tmp_path / "v.npz", ["a.png"] * 2, features, face_index=np.array([1, 0])), "face")
    assert np.array_equal(rows_of(place, done, place.key("a.png")), rows_of(place, other, place.key("a.png")))
    assert done.spec.key != other.spec.key, "another file is another block"


def test_the_same_file_again_changes_nothing_and_new_samples_join(place: Any, bring: Bring, tmp_path: Path) -> None:
    path = npz(tmp_path / "v.npz")
    few = type(place.manifest)(place.manifest.samples[:2])
    done = run(path, "voice", "global", few, place.store, None)
    assert len(place.store.open(done.spec)) == 2
    again = bring(path)
    assert again.spec == done.spec
    assert len(place.store.open(done.spec)) == 4
    shards = list((place.store.place(done.spec) / "shards").iterdir())
    bring(path)
    assert list((place.store.place(done.spec) / "shards").iterdir()) == shards


def test_sample_ids_that_now_mean_other_photos_are_refused(place: Any, bring: Bring, tmp_path: Path) -> None:
    path = npz(tmp_path / "v.npz", ids=IDS[:4])
    bring(path)
    b, d = (place.manifest.by_id[name] for name in ("b.png", "d.png"))
    swapped = type(place.manifest)((replace(b, content=d.content), replace(d, content=b.content)))
    with pytest.raises(DataError, match=r"other features to the content of 'b.png'.*gc --block imported-voice-global-"):
        run(path, "voice", "global", swapped, place.store, None)


@pytest.mark.parametrize(
    ("level", "rows", "said"),
    [
        ("global", {"ids": ["a.png", "a.png"]}, r"sample 'a.png' has 2 rows; level global takes one"),
        ("global", {"ids": ["x", "y"]}, r"none of its samples is in the manifest \(first 'x'\), it has 'a.png'"),
        ("global", {"ids": ["a.png", "twin.png"], "features": [[1], [2]]}, r"'a.png' and 'twin.png' have the same con"),
        ("frame", {"ids": ["a.png"] * 2, "frame_index": np.array([0, 2])}, r"'a.png' has frame_index 0, 2: give each"),
        ("frame", {"ids": ["a.png"] * 2, "frame_index": np.array([0, 0])}, r"'a.png' has frame_index 0, 0: give each"),
        ("frame", {"ids": ["a.png"], "frame_index": np.array([-1])}, r"'a.png' has frame_index -1: give each"),
        ("face", {"ids": ["a.png"], "face_index": np.array([0])}, r"has face_index 0; the detections have 2 faces"),
        ("face", {"ids": ["c.png"], "face_index": np.array([0])}, r"has face_index 0; the detections have 0 faces"),
        ("face", {"ids": ["a.png"] * 2, "face_index": np.array([1, 2])}, r"face_index 1, 2; the detections have 2"),
    ],
)
def test_rows_that_do_not_fit(place: Any, bring: Bring, tmp_path: Path, level: Level, rows: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        bring(npz(tmp_path / "v.npz", **rows), level)
    assert "\n" not in str(caught.value)
    assert not any(info.spec.source == "imported" for info in place.store.blocks()), "nothing was written"


def test_twins_with_different_faces_are_both_named(place: Any, bring: Bring, tmp_path: Path) -> None:
    index = np.array([0, 1, 0, 1])
    path = npz(tmp_path / "v.npz", ["twin.png"] * 2 + ["a.png"] * 2, [[1], [2], [1], [3]], face_index=index)
    with pytest.raises(DataError, match=r"'twin\.png' and 'a\.png' have the same content and different features"):
        bring(path, "face")


def zipped(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def saved(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


ONE = np.array(["a.png"])
OBJECTS = np.array(["a.png"], object)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("v.npz", b"", "not a zip file"),
        ("v.npz", b"\x93NUMPY\x01\x00", "not a zip file"),
        ("v.npz", saved(sample_id=ONE, features=np.ones((1, 2)))[:-30], "not a zip file"),
        ("v.npz", zipped(), "has no sample_id, which level global needs; it has nothing"),
        ("v.npz", saved(sample_id=ONE), "has no features, .*; it has sample_id"),
        ("v.npz", zipped(sample_id=b"\x93NUMPY\x01\x00\x10\x00{'descr': '<", features=b""), "sample_id cannot be read"),
        ("v.npz", zipped(sample_id=b"some text", features=b""), r"sample_id is \(1,\) \|S9; it must be \(n,\) text"),
        ("v.npz", saved(sample_id=OBJECTS, features=np.ones((1, 2))), "sample_id cannot be read.*without Python obj"),
        ("v.npz", saved(sample_id=np.array([7]), features=np.ones((1, 2))), r"sample_id is \(1,\) int64; it must be"),
        ("v.npz", saved(sample_id=ONE, features=np.array([["x"]])), r"features is \(1, 1\) <U1; .* \(n, D\) numbers"),
        ("v.npz", saved(sample_id=ONE, features=np.ones((1, 2), complex)), "features is .*complex128"),
        ("v.npz", saved(sample_id=ONE, features=np.ones(2)), r"features is \(2,\) float64; it must be \(n, D\)"),
        ("v.npz", saved(sample_id=ONE, features=np.ones((2, 2))), "its arrays have 1 and 2 rows"),
        ("v.npz", saved(sample_id=ONE, features=np.ones((1, 0))), "its rows have no features"),
        ("v.npz", saved(sample_id=ONE[:0], features=np.ones((0, 2))), "it has no rows; a row a sample is needed"),
        ("v.npz", saved(sample_id=ONE, features=[[1, np.nan]]), "feature 1 of sample 'a.png' is nan"),
        ("v.npz", saved(sample_id=ONE, features=[[-np.inf]]), "feature 0 of sample 'a.png' is -inf"),
        ("v.npz", saved(sample_id=ONE, features=[[1e39]]), r"is 1e\+39: each must be a finite number that float32"),
        (
            "v.npz",
            saved(sample_id=ONE, features=np.ones((1, 2)), face_index=[0]),
            "face_index, which level global does",
        ),
        ("v.csv", b"", "has no sample_id, which level global needs; it has nothing"),
        ("v.csv", b"name,x\na.png,1\n", "has no sample_id, .*; it has name, x"),
        ("v.csv", b"sample_id,x\n", "it has no rows"),
        ("v.csv", b"sample_id\na.png\n", "its rows have no features"),
        ("v.csv", b"sample_id,x,y\na.png,1\n", "line 2: 2 cells, the header has 3"),
        ("v.csv", b"sample_id,x\na.png,1\nb.png,1,2\n", "line 3: 3 cells, the header has 2"),
        ("v.csv", b"sample_id,x\na.png,high\n", "line 2: column 'x' is 'high', not a number; every column but"),
        ("v.csv", b"sample_id,x\na.png,\n", "line 2: column 'x' is '', not a number"),
        ("v.csv", b"sample_id,x\na.png,1_000\n", "line 2: column 'x' is '1_000', not a number"),
        ("v.csv", b"sample_id,x\na.png,nan\n", "feature 0 of sample 'a.png' is nan"),
        ("v.csv", b"sample_id,x,x\na.png,1,2\n", "has the column 'x' more than once"),
        (
            "v.csv",
            b"sample_id,frame_index,x\na.png,0,1\n",
            "frame_index, which level global does not take; remove it, or",
        ),
        ("v.csv", b"sample_id,x\n\xff\xfe,1\n", "not UTF-8"),
        ("v.csv", b'sample_id,x\n"a.png,1\n', "line 2: not csv"),
        ("v.h5", b"", "its ending is '.h5'; use .npz or .csv"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_files_that_are_refused(place: Any, bring: Bring, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        bring(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", ["-1", "1.0", "", "²", "one"])
def test_an_index_in_csv_is_a_whole_number(bring: Bring, tmp_path: Path, cell: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(f"sample_id,frame_index,x\na.png,{cell},1\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"line 2: frame_index is '{cell}', not a whole number"):
        bring(path, "frame")


def test_an_index_in_npz_is_a_whole_number(bring: Bring, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"frame_index is \(1,\) float64; it must be \(n,\) whole numbers"):
        bring(npz(tmp_path / "v.npz", ["a.png"], frame_index=np.array([0.0])), "frame")


def test_a_damaged_file_is_a_line_whatever_bit_it_is(bring: Bring, tmp_path: Path) -> None:
    """Each byte of a file in turn: it is read or refused, and never ends in another error."""
    whole = saved(sample_id=ONE, features=np.ones((1, 2)))
    said = []
    for place in range(len(whole)):
        path = tmp_path / "v.npz"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            read_table(path, "global")
        except DataError as error:
            said.append(str(error))
    assert len(said) > len(whole) / 3
    assert not any("\n" in line for line in said)


def test_a_file_that_is_not_there(bring: Bring, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v\.npz: cannot be read \(No such file or directory\)"):
        bring(tmp_path / "v.npz")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match=r"d\.csv: cannot be read \(Is a directory\)"):
        bring(tmp_path / "d.csv")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", ".a", "ä", "a\n"])
def test_a_name_that_cannot_name_a_block(bring: Bring, tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="cannot name a block: use letters"):
        bring(npz(tmp_path / "v.npz"), name=name)


def test_a_name_is_no_longer_than_a_pull_takes(bring: Bring, tmp_path: Path) -> None:
    assert bring(npz(tmp_path / "v.npz"), name="a" * 100).spec.tap == "a" * 100
    with pytest.raises(SettingError, match="has 101 characters: use at most 100"):
        bring(npz(tmp_path / "v.npz"), name="a" * 101)


def settings(**imported: str) -> ExtractSettings:
    return ExtractSettings(backbones={"resnet29": BackboneSettings(taps=("embedding",))}, imported=imported)


def test_the_settings_find_the_block(place: Any, bring: Bring, tmp_path: Path) -> None:
    one = bring(npz(tmp_path / "v.npz"))
    two = bring(npz(tmp_path / "w.npz", ids=IDS[:3]))
    assert find(place.store, "voice", settings(voice=one.spec.key[:16])) == one.spec
    assert find(place.store, "voice", settings(voice=two.spec.key[:16])) == two.spec
    with pytest.raises(MissingInputError, match=r"no imported/voice of key 0{16}; run kuleshov cache import FILE --na"):
        find(place.store, "voice", settings(voice="0" * 16))
    with pytest.raises(MissingInputError, match="no imported/mood of key"):
        find(place.store, "mood", settings(mood=one.spec.key[:16]))
    with pytest.raises(SettingError, match=r"extract\.imported has no 'mood', it has voice; run kuleshov cache import"):
        find(place.store, "mood", settings(voice=one.spec.key[:16]))


def test_a_block_in_a_shared_store_is_found_whatever_is_damaged_beside_it(
    place: Any, bring: Bring, tmp_path: Path
) -> None:
    voice = bring(npz(tmp_path / "v.npz")).spec
    store = Store(tmp_path / "own", [place.store.root])
    damaged = store.root / "blocks" / "damaged"
    damaged.mkdir()
    (damaged / "block.json").write_text("{")
    assert find(store, "voice", settings(voice=voice.key[:16])) == voice
    with pytest.raises(DamagedError, match=r"damaged/block\.json"):  # it may be the one
        find(store, "voice", settings(voice="0" * 16))


def test_faces_of_other_detections_are_refused(place: Any, bring: Bring, tmp_path: Path) -> None:
    mood = bring(npz(tmp_path / "m.npz", **face_rows(place)), "face").spec
    check_faces(mood, FaceItems(place.detections, "found"))
    other = Detections({}, {}, {}, "1" * 64)
    for faces in (FaceItems(other, "found"), FaceItems(place.detections, "whole")):
        with pytest.raises(MissingInputError, match="imported for faces of other settings of detect; run kuleshov cac"):
            check_faces(mood, faces)
    check_faces(bring(npz(tmp_path / "v.npz")).spec, FaceItems(other, "found"))


def test_levels_are_the_store_s() -> None:
    assert set(get_args(Level)) < set(LEVELS)
    assert set(INDEX) < set(get_args(Level))
