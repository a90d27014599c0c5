"""Ledgers: what is recorded, its bytes, and when a stage fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import DataError, SettingError, TooManyFailures
from stages.ledger import Allowance, Ledger


@pytest.mark.parametrize(
    ("text", "value", "percent"),
    [("5%", 5, True), (" 0.57 % ", 0.57, True), ("12", 12, False), (0, 0, False), ("100%", 100, True), (7.0, 7, False)],
)
def test_an_allowance(text: str | float, value: float, percent: bool) -> None:
    assert Allowance.parse(text) == Allowance(value, percent)


@pytest.mark.parametrize("text", ["", "five", "-1", "101%", "100.1%", "5 % %", "1e3", "nan", "inf", True, "5%\n6"])
def test_what_is_no_allowance(text: str | float) -> None:
    with pytest.raises(SettingError, match=r"^max_failures is .*: give a count \(12\) or a percentage"):
        Allowance.parse(text)


@given(st.integers(0, 10**9), st.integers(0, 10_000))
def test_an_allowance_is_read_as_it_is_written(count: int, hundredths: int) -> None:
    for text in (str(count), f"{hundredths / 100}%"):
        allowance = Allowance.parse(text)
        assert Allowance.parse(str(allowance)) == allowance
    assert str(Allowance.parse("1234567")) == "1234567"
    assert str(Allowance.parse("5.50%")) == "5.5%"
    assert str(Allowance.parse("10%")) == "10%"


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_percentage_is_of_the_items(hundredths: int, failed: int) -> None:
    assert Allowance.parse(f"{hundredths / 100}%").allows(failed, 10_000) == (failed <= hundredths)


def test_counts_and_edges() -> None:
    assert Allowance.parse("2").allows(2, 10)
    assert not Allowance.parse("2").allows(3, 10**6)
    assert Allowance.parse("0").allows(0, 10)
    assert not Allowance.parse("0%").allows(1, 10)
    assert Allowance.parse("0%").allows(0, 0)
    assert Allowance.parse("100%").allows(10, 10)


def test_the_first_reason_stays_and_a_row_stays_a_line() -> None:
    ledger = Ledger("detect")
    ledger.record("b", "empty", "two\nlines\r\n\tand  more ")
    ledger.record("b", "missing")
    assert ledger.entries == {"b": ("empty", "two lines and more")}
    assert "b" in ledger
    assert "a" not in ledger
    assert len(ledger) == 1


def test_the_file_is_sorted(tmp_path: Path) -> None:
    ledger = Ledger("detect")
    ledger.record("b", "empty", 'says "no", twice')
    ledger.record("a", "missing")
    ledger.record("ä", "odd", "\0 and \udcff")
    path = tmp_path / "failures" / "detect.csv"
    ledger.write(path)
    assert path.read_bytes().decode() == (
        'sample_id,reason,detail\na,missing,\nb,empty,"says ""no"", twice"\nä,odd,\\0 and \\udcff\n'
    )
    assert [p.name for p in path.parent.iterdir()] == ["detect.csv"]
    Ledger("detect").write(path)
    assert path.read_text() == "sample_id,reason,detail\n"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1)


@given(st.dictionaries(texts, st.tuples(texts, st.text()), max_size=6))
def test_a_ledger_goes_round(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, tuple[str, str]]) -> None:
    ledger = Ledger("train")
    for sample_id, (reason, detail) in entries.items():
        ledger.record(sample_id, reason, detail)
    path = tmp_path_factory.mktemp("ledger") / "train.csv"
    ledger.write(path)
    back = Ledger.read(path)
    assert (back.stage, back.entries) == ("train", ledger.entries)


def test_a_missing_file_is_an_empty_ledger(tmp_path: Path) -> None:
    assert len(Ledger.read(tmp_path / "align.csv")) == 0


@pytest.mark.parametrize("text", ["", "a,b\n", "sample_id,reason,detail\na\n", 'sample_id,reason,detail\n"a'])
def test_another_file_is_not_a_ledger(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=r"x\.csv is not a ledger of failures"):
        Ledger.read(tmp_path / "x.csv")


def test_too_many_failures_name_the_reasons_the_most_frequent_first() -> None:
    ledger = Ledger("extract/faces")
    for name, reason in (("a", "empty"), ("b", "truncated"), ("c", "truncated"), ("d", "changed")):
        ledger.record(name, reason)
    assert list(ledger.reasons().items()) == [("truncated", 2), ("changed", 1), ("empty", 1)]
    ledger.enforce(Allowance.parse("4"), 10)
    ledger.enforce(Allowance.parse("40%"), 10)
    with pytest.raises(TooManyFailures) as caught:
        ledger.enforce(Allowance.parse("39%"), 10)
    assert str(caught.value) == (
        "extract/faces: 4 of 10 items failed (truncated 2, changed 1, empty 1), max_failures is 39%; "
        "see artifacts/failures/extract/faces.csv, mend or remove them, or raise max_failures"
    )
    with pytest.raises(TooManyFailures, match=r"see out/failures\.csv, mend"):
        ledger.enforce(Allowance.parse("39%"), 10, Path("out/failures.csv"))
