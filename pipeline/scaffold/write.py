"""What `kuleshov init` writes: one source for new projects and for the demo project at this repository's top level."""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from stages.errors import SettingError

DVCIGNORE = "# DVC does not look into these.\n.venv/\n__pycache__/\n*.egg-info/\n"
GITIGNORE = """\
# DVC ignores what it caches under artifacts/; metrics and plots are small and belong in git.
.venv/
/dvc_plots/
/artifacts/timings/
/artifacts/check/
"""


@dataclass(frozen=True)
class ProjectData:
    """What is particular to a project.

    Attributes:
        adapter: `folder`, `csv`, or a published data set's.
        root, images: as written to params.yaml: absolute, or relative to the project.
        columns: our name -> the file's column.
        faces: `found`, `given` or `whole`.
        title: of the report.
    """

    adapter: str
    root: str
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    faces: str = "found"
    title: str = "Kuleshov"


DEMO = ProjectData("csv", "data/demo/labels.csv", title="Kuleshov demo: drawn group scenes")
"""The demo project: params.yaml and dvc.yaml at the repository's top level are these files, letter for letter."""


def files(data: ProjectData) -> dict[str, str]:
    """File name -> content of a new project."""
    here = importlib.resources.files("pipeline.scaffold")
    environment = jinja2.Environment(
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, not HTML
    )
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((here / "params.yaml.j2").read_text(encoding="utf-8"))
    params = template.render(
        adapter=data.adapter,
        root=data.root,
        images=data.images,
        columns=dict(data.columns),
        faces=data.faces,
        title=data.title,
    )
    return {
        "dvc.yaml": stages_file(),
        "params.yaml": params,
        ".gitignore": GITIGNORE + _photos(data),
        ".dvcignore": DVCIGNORE,
    }


def stages_file() -> str:
    """The dvc.yaml of every project."""
    return (importlib.resources.files("pipeline.scaffold") / "stages.yaml").read_text(encoding="utf-8")


def _photos(data: ProjectData) -> str:
    """A line that keeps photos inside the project out of git: faces are personal data."""
    if data.images is not None:
        place = data.images
    else:
        place = str(Path(data.root).parent) if data.adapter == "csv" else data.root
    return "" if Path(place).is_absolute() or place == "." else f"/{place}/\n"


def write_project(folder: Path, data: ProjectData) -> list[str]:
    """Write a new project: its files, a git repository where there is none, and DVC.

    Returns what was done, a line each.

    Raises:
        SettingError: the folder is a project already, or git or DVC cannot be run.
    """
    taken = [name for name in ("dvc.yaml", "params.yaml") if (folder / name).exists()]
    if taken:
        raise SettingError(
            f"{folder} already has {' and '.join(taken)}; choose another folder, or edit params.yaml there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for name, content in files(data).items():
        path = folder / name
        if not path.exists():
            path.write_text(content, encoding="utf-8")
            done.append(f"wrote {path}")
    return [*done, *initialised(folder)]


def initialised(folder: Path) -> list[str]:
    """Make a git repository where there is none, and DVC. What is there already stays.

    Returns what was done, a line each.

    Raises:
        SettingError: git or DVC cannot be run.
    """
    done = []
    if not _run(["git", "rev-parse", "--git-dir"], folder):
        _must(["git", "init", "-q"], folder)
        done.append("made a git repository")
    if not (folder / ".dvc" / "config").exists():
        inside = _output(["git", "rev-parse", "--show-prefix"], folder)
        half = (folder / ".dvc").exists()  # killed as it began
        _must([*dvc(), "init", "-q", *(["-f"] if half else []), *(["--subdir"] if inside else [])], folder)
        for option, value in (("core.analytics", "false"), ("core.check_update", "false")):
            _must([*dvc(), "config", "-q", option, value], folder)
        done.append("initialised DVC (its usage reports are off)")
    return done


def dvc() -> list[str]:
    """The DVC of this environment, as a command."""
    beside = Path(sys.executable).with_name("dvc")
    found = str(beside) if beside.exists() else shutil.which("dvc")
    if found is None:
        raise SettingError("dvc is not on the PATH; install it with pip install dvc")
    return [found]


def _environment() -> dict[str, str]:
    return {**os.environ, "DVC_NO_ANALYTICS": "1"}


def _run(command: list[str], folder: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, env=_environment(), check=False)
    except FileNotFoundError:
        raise SettingError(f"{command[0]} is not on the PATH; install it first") from None
    return done.returncode == 0


def _output(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _must(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise SettingError(f"{Path(command[0]).name} {command[1]} failed in {folder}: {said}")
