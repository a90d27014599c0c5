"""What the report says of licences."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from pipeline.project import Project
from pipeline.provenance import provenance
from pipeline.scaffold.write import ProjectData, files
from stages.backbones.catalogue import VGG_FACE_LICENCE, catalogue, non_commercial
from stages.report import tables


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """One that asks for two backbones, whose weights are files of the user's: only their hashes are read."""
    folder = tmp_path / "weights"
    folder.mkdir()
    own = {}
    for name in ("vgg_face", "bn_inception"):
        (folder / f"own-{name}.pt").write_bytes(name.encode())
        own[name] = {"filename": f"own-{name}.pt", "sha256": hashlib.sha256(name.encode()).hexdigest()}
    (folder / "index.json").write_text(json.dumps({"trusted": own}))
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(folder))
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    values["extract"]["backbones"] = {
        "faces": {"backbone": "vgg_face", "taps": ["pool5"]},
        "scene": {"backbone": "bn_inception", "taps": ["pooled"]},
    }
    for head in values["train"]["heads"].values():
        head |= {"faces": ["faces/pool5"], "global": ["scene/pooled"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return Project(tmp_path)


def test_non_commercial_licences_are_marked(project: Project) -> None:
    found = provenance(project)
    says = f"the licence of vgg_face allows no commercial use ({VGG_FACE_LICENCE})"
    assert found["NON-COMMERCIAL"] == {"faces": says}
    assert list(found).index("NON-COMMERCIAL") == list(found).index("backbones") + 1
    assert ("NON-COMMERCIAL", [("faces", says)]) in tables.provenance(found)


def test_what_computed_is_named(project: Project) -> None:
    values = yaml.safe_load((project.folder / "params.yaml").read_text())
    values["detect"] |= {"engine": "torch", "device": "cpu"}
    values["extract"] |= {"engine": "openvino", "compute": "bfloat16", "device": "cpu"}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(values))
    found = provenance(Project(project.folder))["computed by"]
    assert isinstance(found, dict)
    assert found["detect"].startswith("torch-cpu")
    assert found["extract"] == "openvino-cpu, bfloat16, float16"


def test_a_project_without_such_weights_says_nothing(project: Project) -> None:
    del project.params.extract.backbones["faces"]
    assert "NON-COMMERCIAL" not in provenance(project)


def test_which_licences_are_non_commercial() -> None:
    known = {entry.licence for entry in catalogue().values()}
    assert {licence for licence in known if non_commercial(licence)} == {
        "CC BY-NC 4.0 (non-commercial)",
        "code MIT; CASIA-WebFace: non-commercial research",
    }
    for licence in ("cc-by-nc-4.0", "CC-BY-NC-SA-4.0", "fair-noncommercial-research-license", "apple-amlr"):
        assert non_commercial(licence)
    for licence in ("MIT", "apache-2.0", "cc-by-4.0", "apple-ascl", "see torchvision", "of your file", "unknown"):
        assert not non_commercial(licence)
