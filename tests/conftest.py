from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: with two workers the other files fill the time after them."""
    long = ("test_end_to_end", "test_dvc_store", "test_cluster", "test_killed", "test_remote", "reproduce/test_run")
    items.sort(key=lambda item: not any(name in item.nodeid for name in long))


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests never touch the user's store; those in one process share one, so that features are computed once."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("store")
        patch.setenv("KULESHOV_STORE", str(place))
        patch.delenv("KULESHOV_STORE_SHARED", raising=False)
        patch.setenv("DVC_NO_ANALYTICS", "1")
        yield place


@pytest.fixture
def kuleshov(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: kuleshov("detect") -> (exit status, stdout, stderr)."""
    from pipeline.cli import main

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["kuleshov", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run
