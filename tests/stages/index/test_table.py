from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.errors import DataError, SettingError
from stages.index.manifest import Box, is_unwritable
from stages.index.raw import Corpus, RawSample, Source
from stages.index.table import read
from stages.ledger import Ledger

Read = Callable[..., Corpus]


@pytest.fixture
def read_text(tmp_path: Path, ledger: Ledger) -> Read:
    def run(text: str | bytes, **source: object) -> Corpus:
        path = tmp_path / "labels.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(Source(path, **source), ledger)  # type: ignore[arg-type]

    return run


def reasons(ledger: Ledger) -> dict[str, str]:
    return {sample_id: reason for sample_id, (reason, _) in ledger.entries.items()}


def test_plain(read_text: Read, tmp_path: Path, ledger: Ledger) -> None:
    corpus = read_text("path,label\n./b/1.jpg, sad \na.mp4,happy; sad;happy\nc.png,\n\n")
    assert corpus.samples == (
        RawSample("b/1.jpg", "b/1.jpg", "image", ("sad",)),
        RawSample("a.mp4", "a.mp4", "video", ("happy", "sad")),
        RawSample("c.png", "c.png", "image", ()),
    )
    assert corpus.images == tmp_path
    assert corpus.merged_rows == 0
    assert len(ledger) == 0


def test_all_columns(read_text: Read) -> None:
    corpus = read_text(
        "sample_id,path,label,split,group,subset,x1,y1,x2,y2,box_kind\n"
        "p1,a.jpg,sad,Validation,film 1,dark,1,2,3.5,4,person\n"
        "p1,a.jpg,sad,val,film 1,dark,5,6,7,8,\n"
        "p2,a.jpg,happy,test,,,,,,,\n",
        images=Path("/photos"),
    )
    boxes = (Box(1, 2, 3.5, 4, "person"), Box(5, 6, 7, 8, "face"))
    assert corpus.samples == (
        RawSample("p1", "a.jpg", "image", ("sad",), "val", "film 1", "dark", boxes),
        RawSample("p2", "a.jpg", "image", ("happy",), "test"),
    )
    assert corpus.images == Path("/photos")
    assert corpus.merged_rows == 0


def test_boxes_without_a_sample_id(read_text: Read) -> None:
    corpus = read_text("path,label,x1,y1,x2,y2\na.jpg,sad,0,0,9,9\na.jpg,sad,5,5,9,9\na.jpg,sad,0,0,9,9\n")
    assert [sample.boxes for sample in corpus.samples] == [(Box(0, 0, 9, 9, "face"), Box(5, 5, 9, 9, "face"))]
    assert corpus.merged_rows == 1


def test_repeated_rows_are_merged_and_counted(read_text: Read, ledger: Ledger) -> None:
    corpus = read_text("path,label\na.jpg,sad;happy\na.jpg,happy;sad\n./a.jpg,sad;happy\nb.jpg,sad\n")
    assert [sample.sample_id for sample in corpus.samples] == ["a.jpg", "b.jpg"]
    assert corpus.merged_rows == 2
    assert len(ledger) == 0


@pytest.mark.parametrize(
    ("header", "one", "other", "said"),
    [
        ("path,label", "a.jpg,sad", "a.jpg,happy", r"labels \('sad',\) and \('happy',\)"),
        ("path,label", "a.jpg,sad", "a.jpg,", "labels"),
        ("path,label,split", "a.jpg,sad,train", "a.jpg,sad,test", "split 'train' and 'test'"),
        ("path,label,split", "a.jpg,sad,train", "a.jpg,sad,", "split 'train' and None"),
        ("path,label,group", "a.jpg,sad,1", "a.jpg,sad,2", "group '1' and '2'"),
        ("path,label,subset", "a.jpg,sad,1", "a.jpg,sad,2", "subset"),
        ("sample_id,path,label", "a.jpg,x.jpg,sad", "a.jpg,y.jpg,sad", "path 'x.jpg' and 'y.jpg'"),
    ],
)
def test_contradictions(read_text: Read, ledger: Ledger, header: str, one: str, other: str, said: str) -> None:
    filler = header.replace("path", "b.jpg").replace("label", "sad").replace("split", "train")
    corpus = read_text(f"{header}\n{one}\n{other}\n{filler}\n")
    assert [sample.path for sample in corpus.samples] == ["b.jpg"]
    assert reasons(ledger) == {"a.jpg": "contradictory"}
    assert re.search(said, ledger.entries["a.jpg"][1])


@pytest.mark.parametrize(
    "corners",
    ["1,2,3,", ",,3,4", "a,2,3,4", "3,2,1,4", "1,2,1,4", "1,4,3,2", "nan,2,3,4", "1,2,inf,4", "1_0,2,30,4"],
)
def test_bad_boxes(read_text: Read, ledger: Ledger, corners: str) -> None:
    corpus = read_text(f"path,label,x1,y1,x2,y2\na.jpg,sad,1,2,3,4\na.jpg,sad,{corners}\nb.jpg,sad,-1,-2.5,3,4\n")
    assert [(sample.sample_id, sample.boxes) for sample in corpus.samples] == [
        ("b.jpg", (Box(-1, -2.5, 3, 4, "face"),))
    ]
    assert reasons(ledger) == {"a.jpg": "bad_box"}
    assert "line 3" in ledger.entries["a.jpg"][1]


def test_bad_rows(read_text: Read, ledger: Ledger) -> None:
    corpus = read_text(
        "path,label,split,x1,y1,x2,y2,box_kind\n"
        "a.jpg,sad,holdout,,,,,\n"
        "b.jpg,sad\n"
        "c.jpg,sad,train,,,,,,\n"  # an empty cell too many does no harm
        "d.jpg,sad,train,,,,,,more\n"
        ",sad,train,,,,,\n"
        "e.jpg,sad,train,1,2,3,4,hand\n"
        "f\0.jpg,sad,train,,,,,\n"
    )
    assert [sample.sample_id for sample in corpus.samples] == ["c.jpg"]
    assert reasons(ledger) == {
        "a.jpg": "bad_split",
        "labels.csv line 3": "bad_row",
        "labels.csv line 5": "bad_row",
        "labels.csv line 6": "no_path",
        "e.jpg": "bad_box",
        "f\\x00.jpg": "bad_name",
    }


def test_columns_are_mapped(read_text: Read) -> None:
    corpus = read_text(
        "image,emotion,identity,path\na.jpg,sad,7,ignored\n",
        columns={"path": "image", "label": "emotion", "group": "identity", "sample_id": "image"},
    )
    assert corpus.samples == (RawSample("a.jpg", "a.jpg", "image", ("sad",), group="7"),)


@pytest.mark.parametrize(
    ("header", "columns", "said"),
    [
        ("image,label", {}, r"labels.csv has no column 'path' \(for path\); it has image, label"),
        ("path,emotion", {}, "no column 'label'"),
        ("path,label", {"group": "identity"}, r"no column 'identity' \(for group\)"),
        ("path,label,x1,y1", {}, "no column 'x2'"),
        ("path,label", {"emotion": "label"}, "data.columns has 'emotion': .*path, label, sample_id"),
    ],
)
def test_columns_that_are_not_there(read_text: Read, header: str, columns: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        read_text(f"{header}\na.jpg,sad,1,2\n", columns=columns)


def test_a_column_twice(read_text: Read) -> None:
    with pytest.raises(DataError, match="'label' 2 times"):
        read_text("path,label,label\na.jpg,sad,happy\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_ends_and_delimiters(read_text: Read, encoding: str, end: str, delimiter: str) -> None:
    lines = [["path", "label", "group"], ["é.jpg", "fâché", "x"], ['"a,b;c.jpg"', '"p;q"', "y"]]
    text = end.join(delimiter.join(line) for line in lines) + end
    corpus = read_text(text.encode(encoding))
    assert [(s.path, s.labels, s.group) for s in corpus.samples] == [
        ("é.jpg", ("fâché",), "x"),
        ("a,b;c.jpg", ("p", "q"), "y"),
    ]


def test_punctuation_of_cp1252_is_no_control_character(read_text: Read, ledger: Ledger) -> None:
    assert read_text("path,label\nl\x92été.jpg,sad\n".encode("latin-1")).samples[0].path == "l’été.jpg"
    assert len(ledger) == 0


def test_windows_paths_quotes_and_blank_lines(read_text: Read) -> None:
    corpus = read_text('\n"path", "label"\n"sad\\1.jpg", "sad"\n')
    assert corpus.samples == (RawSample("sad/1.jpg", "sad/1.jpg", "image", ("sad",)),)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty(read_text: Read, text: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_text(text)


def test_no_rows_no_file_a_folder(read_text: Read, tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(DataError, match="has a header and no rows"):
        read_text("path,label\n")
    with pytest.raises(DataError, match="is not there"):
        read(Source(tmp_path / "none.csv"), ledger)
    with pytest.raises(DataError, match="cannot be read"):
        read(Source(tmp_path), ledger)


def test_a_cell_beyond_all_measure(read_text: Read) -> None:
    with pytest.raises(DataError, match="is not csv"):
        read_text("path,label\n" + "a" * 200_000 + ",sad\n")


@given(st.one_of(st.binary(max_size=200), st.text(alphabet='path,label;\t"\r\n\0a1.é', max_size=200).map(str.encode)))
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "fuzz.csv"
    said = []
    for head in (b"", b"path,label,x1,y1,x2,y2\n", b"path;label;split\n"):
        path.write_bytes(head + junk)
        ledger = Ledger("index")
        try:
            corpus = read(Source(path), ledger)
        except (DataError, SettingError) as error:
            said.append(str(error))
            continue
        assert not {sample.sample_id for sample in corpus.samples} & set(ledger.entries)
        assert len({sample.sample_id for sample in corpus.samples}) == len(corpus.samples)
        ledger.write(tmp_path / "failures.csv")
    assert not any(is_unwritable(line) for line in said)
