"""What a report says about where its numbers come from: versions, weights with their licences, block keys."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pipeline.project import Project
from stages.finetune.settings import FinetuneSettings

PACKAGES = (
    *("kuleshov", "torch", "torchvision", "openvino", "timm", "facenet-pytorch"),
    *("h5py", "numpy", "Pillow", "av", "scikit-learn", "dvc"),
)


def versions() -> dict[str, str]:
    """Package -> version, of the packages whose versions can change numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(project: Project) -> dict[str, object]:
    """For the report: versions, the roles' backbones with licence and hash, blocks with their items, settings."""
    from stages.backbones import catalogue
    from stages.detect.run import boxes_spec
    from stages.extract.plan import engine_of, numerics, resolve_backbone, weights_of

    settings = project.params
    backbones: dict[str, object] = {}
    restricted: dict[str, str] = {}
    for role in sorted(settings.extract.roles):
        spec, missing = resolve_backbone(role, settings.extract, project.weights_folder)
        file, digest = weights_of(role, spec, settings.extract, project.weights_folder, project.finetunes)
        stands_in = f"; stands in for {missing}" if missing else ""
        tuned = f" fine-tuned as {file.parent.name}" if file else ""
        sees = {"person": " over persons", "context": " over photos without the person"}
        over = sees.get(settings.extract.roles[role].region or "", "")
        backbones[role] = f"{spec.name}{tuned}{over}, {spec.licence}, sha256 {digest[:16]}, {spec.paper}{stands_in}"
        if catalogue.non_commercial(spec.licence):
            restricted[role] = f"the licence of {spec.name} allows no commercial use ({spec.licence})"
    finetunes, of_finetunes = _finetunes(settings.finetune)
    restricted |= of_finetunes
    return {
        "versions": versions(),
        "backbones": backbones,
        **({"fine-tunes": finetunes} if finetunes else {}),
        **({"NON-COMMERCIAL": restricted} if restricted else {}),
        **({"imported features": _imported(project)} if settings.extract.imported else {}),
        "blocks": _blocks(project.artifacts / "blocks"),
        "faces": f"{settings.detect.faces}, detector {settings.detect.detector}",
        "computed by": {
            "detect": ", ".join(boxes_spec(settings.detect).numerics.values()),
            "extract": ", ".join(numerics(engine_of(settings.extract), settings.extract.dtype).values()),
        },
        "heads": {
            name: f"{head.kind}, learning rate {head.learning_rate:g}" for name, head in settings.train.heads.items()
        },
        "seeds": list(settings.train.seeds),
        "command": "dvc repro",
    }


def _finetunes(known: Mapping[str, FinetuneSettings]) -> tuple[dict[str, str], dict[str, str]]:
    """How each fine-tune is trained, and which may not be used commercially."""
    from stages.backbones import catalogue
    from stages.backbones.registry import get_spec

    said: dict[str, str] = {}
    restricted: dict[str, str] = {}
    for name, one in sorted(known.items()):
        length = f"{one.epochs} epochs" if one.epochs is not None else f"{one.iterations} steps"
        how = f"preset {one.preset}, " if one.preset else ""
        nets = " and ".join(f"{net.backbone} from {net.start}" for net in one.networks.values())
        nets = nets or f"crops as {one.backbone} sees them"
        head = f", head {one.head.kind}" if one.head is not None else ""
        folds = f", {one.folds} folds" if one.folds is not None else ""
        said[name] = f"{how}{nets}{head}, {length}, learning rate {one.learning_rate:g}, seed {one.seed}{folds}"
        for spec in (get_spec(net.backbone) for net in one.networks.values()):
            if catalogue.non_commercial(spec.licence):
                restricted[name] = f"the licence of {spec.name} allows no commercial use ({spec.licence})"
    return said, restricted


def _imported(project: Project) -> dict[str, str]:
    from stages.errors import MissingInputError
    from stages.extract.imported import find

    found: dict[str, str] = {}
    for name, key in sorted(project.params.extract.imported.items()):
        try:
            spec = find(project.store, name, project.params.extract)
        except MissingInputError:
            found[name] = f"key {key}, not in the store any more"
            continue
        sha256 = spec.preprocessing["file_sha256"]
        found[name] = f"{spec.level}, {spec.shape[0]} numbers a row, file sha256 {sha256[:16]}, key {key}"
    return found


def _blocks(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.csv")):
        with open(path, newline="", encoding="utf-8") as handle:
            items: Counter[str] = Counter()
            rows: Counter[str] = Counter()
            for row in csv.DictReader(handle):
                items[row["block"]] += 1
                rows[row["block"]] += int(row["rows"])
        for block in items:
            name, _, key = block.partition("@")
            found[f"{name} ({key[:12]})"] = f"{items[block]} items, {rows[block]} rows"
    return found
