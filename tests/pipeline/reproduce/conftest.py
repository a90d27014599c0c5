"""A recipe of two small projects, the second of which starts from the first's fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.reproduce import recipe as recipes

RECIPE = """\
paper: tan2017
table: Table 0
title: a fine-tune and what starts from it
projects: [tiny-first, tiny-second]
columns:
  accuracy: {project: tiny-second, split: test, metric: accuracy}
  happy: {project: tiny-second, split: test, metric: recall, label: happy}
rows:
  - {name: Net, of: {member: net}, cells: {accuracy: 71.5}}
  - {name: Logistic, of: {member: logistic}, cells: {accuracy: 60, happy: 55.5}}
  - {name: Both, of: {member: both}, cells: {happy: {empty: true}}, differs: [the paper has no such row]}
  - {name: Theirs, of: {quoted: true}, cells: {accuracy: 70.0, happy: {empty: true}}}
pairs:
  - {higher: Net, lower: Logistic, column: accuracy}
differs: [drawn for a test]
small: [faces of people who are not there]
"""

FIRST = """\
about: some faces
data_sets:
  fer2013: {adapter: fer2013, what: faces}
keep: [logistic]
settings:
  data: {adapter: fer2013, root: "{fer2013}"}
  detect: {faces: whole}
  extract:
    backbones:
      expression: {taps: [feature], stand_in: mini_xception}
  finetune:
    net: {preset: tan-nonaligned-scratch}
    unused: {preset: tan-nonaligned-scratch}
  train:
    seeds: [0]
    heads:
      logistic: {kind: "baselines:logistic_faces", faces: [expression/feature]}
small:
  stand_ins:
    fer2013: {training: 14, public_test: 7, private_test: 7}
  settings:
    finetune:
      net: {backbone: "narrow:resnet34_48", epochs: 1, batch_size: 7, schedule: {kind: steps, every: 2}}
  differs: [fourteen drawn faces]
"""

SECOND = """\
about: other faces
data_sets:
  fer2013: {adapter: fer2013, what: faces}
keep: [logistic]
settings:
  data: {adapter: fer2013, root: "{fer2013}"}
  detect: {faces: whole}
  extract:
    backbones:
      expression: {taps: [feature], stand_in: mini_xception}
  finetune:
    net: {preset: tan-nonaligned, start: "folder:../tiny-first/artifacts/finetune/net"}
  train:
    seeds: [0, 1]
    heads:
      logistic: {kind: "baselines:logistic_faces", faces: [expression/feature]}
  fuse:
    ensembles:
      both: {members: [net, logistic], weights: [1.0, 1.0]}
small:
  stand_ins:
    fer2013: {training: 14, public_test: 7, private_test: 14, seed: 3}
  settings:
    finetune:
      net: {backbone: "narrow:resnet34_48", epochs: 1, batch_size: 7, schedule: {kind: steps, every: 2}}
  differs: [fourteen drawn faces]
"""


def _write_recipes(folder: Path) -> Path:
    (folder / "projects").mkdir(parents=True)
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "projects" / "tiny-first.yaml").write_text(FIRST)
    (folder / "projects" / "tiny-second.yaml").write_text(SECOND)
    return folder


@pytest.fixture(scope="session")
def write_recipes() -> Callable[[Path], Path]:
    """Writes the recipe `tiny` and its projects into a new folder, and gives that back."""
    return _write_recipes


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of recipes, in which `tiny` is the only one."""
    folder = _write_recipes(tmp_path / "recipes")
    monkeypatch.setattr(recipes, "FOLDER", folder)
    return folder
