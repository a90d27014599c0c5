"""What steps have in common when they say what happened."""

from __future__ import annotations

from pipeline.project import Project
from stages.errors import SettingError
from stages.ledger import Allowance, Ledger

Lines = list[str]


def close(project: Project, ledger: Ledger, total: int, allowance: str | None) -> Lines:
    """Write the ledger, and fail the stage when it holds too much."""
    path = project.failures(ledger.stage)
    ledger.write(path)
    try:
        limit = Allowance.parse(allowance if allowance is not None else project.params.max_failures)
    except SettingError as error:
        raise SettingError(f"--max-failures: {error}") from None
    ledger.enforce(limit, total, path)
    if not len(ledger):
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.reasons().items())
    return [f"  {len(ledger)} of {total} failed ({reasons}); see {path}"]
