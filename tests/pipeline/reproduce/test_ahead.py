"""What fails before the first stage: layouts, options, weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.reproduce import ahead
from pipeline.reproduce.projects import jobs_of, write_job
from stages.errors import DataError, SettingError, WeightsError
from stages.index.standins import fer2013


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    fer2013.write(tmp_path / "fer", fer2013.Sizes(training=7, public_test=7, private_test=7), 0)
    return tmp_path / "fer"


def made(tmp_path: Path, root: Path, own: dict[str, object] | None = None) -> dict[str, Path]:
    """The projects of `tiny` in a folder of their own."""
    jobs = jobs_of("tiny", small=False)
    given = {job.name: own or {} for job in jobs}
    return {
        job.name: write_job(job, "tiny", {"fer2013": root}, tmp_path / "to", small=False, own=given[job.name])
        for job in jobs
    }


def test_all_weights_that_lack_are_named_at_once(
    tiny: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = {"backbone": "resnet29", "taps": ["embedding"]}
    folders = made(tmp_path, drawn, {"extract": {"backbones": {"body": role}}})
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"^weights of resnet29 are not here: kuleshov weights fetch resnet29, or,"):
        ahead.require_ready(folders)


def test_a_backbone_with_a_stand_in_asks_for_nothing(
    tiny: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(tmp_path / "none"))
    ahead.require_ready(made(tmp_path, drawn))


def test_another_layout_is_said_before_anything_runs(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"^project tiny-first: data\.root .* is not laid out as FER2013"):
        ahead.require_ready(made(tmp_path, tmp_path / "other"))


def test_an_option_that_is_not_there(tiny: Path, drawn: Path, tmp_path: Path) -> None:
    folders = made(tmp_path, drawn, {"data": {"options": {"evaluation": 3}}})
    with pytest.raises(SettingError, match=r"^project tiny-first: data\.options\.evaluation is 3"):
        ahead.require_ready(folders)
