from __future__ import annotations

import re

import pytest

from benchmarks import memory


def test_each_is_a_process_of_its_own_and_its_peak_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """At a tiny size: that all of them run, not how much they take."""
    memory.compare([100])
    said = capsys.readouterr().out
    peaks = re.findall(r"^peak memory of (.+) (\d+) rows \(\d+ MiB\): (\d+) MiB, ", said, re.MULTILINE)
    assert [(what, int(rows)) for what, rows, _ in peaks] == [(who, 100) for who in memory.WHO]
    assert all(int(peak) > 20 for _, _, peak in peaks)
    assert re.findall(r"^difference: (.+) -?\d+ MiB$", said, re.MULTILINE) == list(memory.WHO)


def test_a_step_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="KeyError: 'sing'"):
        memory.measured("sing", memory.Path("nowhere"), 1)
