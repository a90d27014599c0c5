from __future__ import annotations

import re

import pytest
import torch

from benchmarks import meen


def test_both_ways_are_timed_on_the_same_maps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tiny size: that both run, not how long they take."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["meen", "--kind", "meen:model3_facial", "--batch", "2", "--steps", "1"])
    meen.main()
    torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()[2:4]] == ["in the loop", "cached"]
    assert float(re.findall(r"^ratio: step ([0-9.]+)$", said, re.MULTILINE)[0]) > 0
