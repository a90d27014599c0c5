"""Paths of params.yaml that lead out of a project: its photos, and other projects' fine-tunes."""

from __future__ import annotations

from pathlib import Path

_EXPERIMENTS = (".dvc", "tmp", "exps")


def located(project: Path, place: str) -> Path:
    """Where a path of params.yaml is, whether it is there or not.

    `dvc exp run --temp` and `--queue` work in a copy of what git knows, inside the workspace's .dvc/tmp/exps: photos,
    which git ignores, and what lies beside the workspace are read where they are.

    Args:
        project: the folder of params.yaml.
        place: relative to it.
    """
    here = project / place
    if here.exists():
        return here
    for copy in (project, *project.parents):
        if (copy / ".git").exists():  # the root of this repository, or of an experiment's copy of it
            parts = copy.parts
            for at in range(len(parts) - 2):
                if parts[at : at + 3] == _EXPERIMENTS:
                    return Path(*parts[:at]) / project.relative_to(copy) / place
            break
    return here
