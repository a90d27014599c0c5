from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.errors import DataError, MissingInputError
from stages.index.manifest import COLUMNS, Box, Manifest, Sample

HASH = "0123456789abcdef" * 4
PLAIN = Sample("b", "b.jpg", "image", ("sad",), "train", "", "", (), HASH)

texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)
names = texts.filter(bool)
numbers = st.floats(-1e6, 1e6)
boxes = st.builds(
    lambda x, y, w, h, kind: Box(x, y, x + w, y + h, kind),
    numbers,
    numbers,
    st.floats(1, 1e4),
    st.floats(1, 1e4),
    st.sampled_from(["face", "person"]),
)
samples = st.builds(
    Sample,
    sample_id=names,
    path=names,
    media=st.sampled_from(["image", "video"]),
    labels=st.lists(names.filter(lambda x: ";" not in x), unique=True, max_size=3).map(tuple),
    split=st.sampled_from(["train", "val", "test"]),
    group=texts,
    subset=texts,
    boxes=st.lists(boxes, max_size=3).map(tuple),
    content=st.text("0123456789abcdef", min_size=64, max_size=64),
    shares=st.sampled_from([(), (("happy", 1.0),), (("happy", 0.7), ("sad", 0.3))]),
    values=st.sampled_from([(), (("valence", -1.25),), (("arousal", 3.0), ("valence", 10.0))]),
)


def test_bytes_are_exactly_these(tmp_path: Path) -> None:
    boxed = replace(
        PLAIN, sample_id="a", path="x, y.jpg", labels=("happy", "sad"), group="g", boxes=(Box(1, 2.5, 3, 4, "face"),)
    )
    Manifest((PLAIN, boxed)).write(tmp_path / "deep" / "manifest.csv")
    assert (tmp_path / "deep" / "manifest.csv").read_bytes() == (
        b"sample_id,path,media,labels,split,group,subset,boxes,shares,values,content\n"
        b'a,"x, y.jpg",image,happy;sad,train,g,,"[[1.0,2.5,3.0,4.0,""face""]]",,,' + HASH.encode() + b"\n"
        b"b,b.jpg,image,sad,train,,,[],,," + HASH.encode() + b"\n"
    )
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["manifest.csv"]


@given(st.lists(samples, max_size=5, unique_by=lambda sample: sample.sample_id))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_is_read(tmp_path: Path, drawn: list[Sample]) -> None:
    manifest = Manifest(tuple(drawn))
    manifest.write(tmp_path / "m.csv")
    again = Manifest.read(tmp_path / "m.csv")
    assert again == manifest
    again.write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "m.csv").read_bytes()


def test_order_classes_and_lookup() -> None:
    manifest = Manifest((PLAIN, replace(PLAIN, sample_id="a", labels=("happy", "sad")), replace(PLAIN, sample_id="c")))
    assert [sample.sample_id for sample in manifest] == ["a", "b", "c"]
    assert len(manifest) == 3
    assert manifest.classes == ("happy", "sad")
    assert manifest.by_id["b"] is PLAIN


def test_one_sample_id_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'b' occurs more than once"):
        Manifest((PLAIN, PLAIN))


def test_located(tmp_path: Path) -> None:
    assert PLAIN.located(tmp_path) == tmp_path / "b.jpg"
    assert replace(PLAIN, path="/elsewhere/b.jpg").located(tmp_path) == Path("/elsewhere/b.jpg")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_id": "a\nb"}, r"a\\nb"),
        ({"path": "a\udcff"}, "not valid Unicode"),
        ({"labels": ("a;b",)}, "a;b"),
        ({"labels": ("",)}, "not be empty"),
        ({"labels": ("a", "a")}, "once"),
        ({"split": "dev"}, "'dev'"),
        ({"media": "sound"}, "'sound'"),
        ({"content": "0" * 63}, "SHA-256"),
        ({"boxes": (Box(0, 0, float("nan"), 1, "face"),)}, "not finite"),
        ({"boxes": (Box(5, 0, 5, 1, "face"),)}, "no area"),
        ({"boxes": (Box(0, 0, 1, 1, "hand"),)}, "'hand'"),
    ],
)
def test_what_the_file_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        Manifest((replace(PLAIN, **change),)).write(tmp_path / "m.csv")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_absent_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="kuleshov index"):
        Manifest.read(tmp_path / "manifest.csv")


HEADER = ",".join(COLUMNS)
ROW = f"a,a.jpg,image,sad,train,,,[],,,{HASH}"
HALF, NAN = '[],"{""sad"":0.5}",', '[],,"{""valence"":NaN}"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "header"),
        ("path,label\na,b\n", "line 1: is not the header"),
        (f"{HEADER}\n{ROW}\n{ROW},more\n", "line 3: has 12 fields"),
        (f"{HEADER}\n{ROW[:-1]}\n", "line 2: content"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "more than once"),
        (f"{HEADER}\n{ROW.replace('[]', '[[1]]')}\n", "line 2: boxes"),
        (f"{HEADER}\n{ROW.replace('[]', '{}')}\n", "line 2: boxes"),
        (f"{HEADER}\n{ROW.replace('[]', '7')}\n", "line 2: boxes"),
        (f"{HEADER}\n{ROW.replace('[],,', '[],7,')}\n", "line 2: shares"),
        (f"{HEADER}\n{ROW.replace('[],,', '[],,[]')}\n", "line 2: values"),
        (f"{HEADER}\n{ROW.replace('[],,', HALF)}\n", "line 2: shares .* their sum 1"),
        (f"{HEADER}\n{ROW.replace('[],,', NAN)}\n", "line 2: 'valence' is nan"),
        (f"{HEADER}\n{ROW.replace('train', 'dev')}\n", "line 2: split"),
        (f'{HEADER}\n"{ROW}\n', "line"),
    ],
)
def test_foreign_or_damaged(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        Manifest.read(tmp_path / "m.csv")


def test_not_text_and_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        Manifest.read(tmp_path / "m.csv")
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        Manifest.read(tmp_path)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 30))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damage_is_a_data_error_or_a_manifest(tmp_path: Path, junk: bytes, place: int, cut: int) -> None:
    sound = f"{HEADER}\n{ROW}\n".encode()
    (tmp_path / "m.csv").write_bytes(sound[:place] + junk + sound[place + cut :])
    said = ""
    try:
        Manifest.read(tmp_path / "m.csv").write(tmp_path / "again.csv")
    except DataError as error:
        said = str(error)
    assert "\n" not in said
