"""What training reads, and whether what heads ask for is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cache.keys import BlockSpec
from cache.store import Store
from stages.align.run import PIXELS, crops_block, template_of
from stages.detect.run import Detections
from stages.detect.settings import DetectSettings
from stages.errors import SettingError
from stages.extract.imported import FaceItems, check_faces
from stages.extract.imported import find as find_imported
from stages.extract.plan import RolePlan
from stages.extract.settings import IMPORTED, ExtractSettings, ViewSettings
from stages.extract.views import names as view_names
from stages.heads import registry
from stages.index.manifest import Manifest
from stages.train.settings import HeadSettings, TrainSettings


@dataclass(frozen=True)
class Inputs:
    """Where features come from: the manifest, the store, its detections, and the roles' blocks. `finetunes` has a
    folder for each fine-tune that a head may start from; None: there are none."""

    manifest: Manifest
    store: Store
    detections: Detections
    plans: Mapping[str, RolePlan]
    detect: DetectSettings
    extract: ExtractSettings
    finetunes: Path | None = None


def blocks_of(inputs: Inputs, settings: TrainSettings) -> dict[str, BlockSpec]:
    """`ROLE/TAP` -> its block, of every role; `imported/NAME` and `TEMPLATE/pixels` -> its block, of those that heads
    read.

    Raises:
        SettingError: imported features that the settings do not name, or of other faces.
        MissingInputError: they are not in the store.
    """
    blocks = {f"{r}/{tap}": spec for r, plan in sorted(inputs.plans.items()) for tap, spec in plan.blocks.items()}
    read = sorted({name for head in settings.heads.values() for name in imported(head)})
    faces = FaceItems(inputs.detections, inputs.detect.faces)
    for name in read:
        spec = blocks[f"{IMPORTED}/{name}"] = find_imported(inputs.store, name, inputs.extract)
        check_faces(spec, faces)
    for head in settings.heads.values():
        for name in head.blocks:
            if name not in blocks and template_of(name) is not None:
                blocks[name] = crops_block(name, inputs.detections.key, inputs.detect.faces)
    return blocks


def check(name: str, head: HeadSettings, blocks: Mapping[str, BlockSpec], views: ViewSettings) -> None:
    """Refuse a head that cannot be trained.

    Args:
        name: of the head, for messages.
        blocks: see `blocks_of`.
        views: that are extracted.

    Raises:
        SettingError: its kind does not exist; it asks for a block that is not extracted, has none of a level that it
            reads, or some of one that it does not; or it has an option that its file does not have.
    """
    module, variant = registry.find(head.kind)
    for level, key, asked in (("face", "faces", head.faces), ("global", "global", head.global_)):
        reads, where = level in module.NEEDS[variant], f"train.heads.{name}.{key}"
        what = "faces" if level == "face" else "whole photos"
        if reads and not asked:
            raise SettingError(f"{where} is empty, and {head.kind} reads {what}: name a {level} block, ROLE/TAP")
        if asked and not reads:
            raise SettingError(f"{where} is {', '.join(asked)}, and {head.kind} does not read {what}: use {key}: []")
    _check_views(name, head, views)
    for level, names in (("face", head.faces), ("global", head.global_)):
        for block in names:
            where = f"train.heads.{name}: {block!r}"
            if block not in blocks:
                raise SettingError(f"{where} is not extracted; extract.backbones gives {', '.join(blocks)}")
            found = blocks[block]
            if found.level != level or len(found.shape) != 1:
                need = "faces" if level == "face" else "global"
                raise SettingError(f"{where} is a {found.level} block of shape {found.shape}: it cannot be in {need}")
    _check_inputs(name, head, blocks)
    levels = {one.level for one in registry.inputs_of(head.kind).values()}
    if "frames" in head.model_fields_set and "frame" not in levels:
        raise SettingError(f"train.heads.{name}.frames has no part in {head.kind}, which reads no frames; leave it out")
    if registry.fitter(head.kind) is not None and (idle := sorted(head.model_fields_set & BY_STEPS)):
        raise SettingError(
            f"train.heads.{name}.{idle[0]} has no part in {head.kind}, which is solved and not trained by steps; leave "
            f"{', '.join(idle)} out"
        )
    try:
        registry.options_of(head.kind, head.options)
    except SettingError as error:
        raise SettingError(f"train.heads.{name}.{error}") from None


LEVELS = {"frame": ("face", "global", "frame"), "person": ("person",)}
"""Of the blocks that rows of frames or persons are of: a frame's is one face in it, the whole of it, or imported."""

BY_STEPS = {
    *("epochs", "batch_size", "optimiser", "learning_rate", "step", "gamma", "schedule", "momentum", "weight_decay"),
    *("dropout", "loss", "sampling", "patience", "views", "start"),
}
"""Settings of training by steps."""

_DIMENSIONS = {"vector": (1,), "map": (3,), "pixels": (3,), "features": (1, 3)}
"""Of a row, by kind of input."""


def _check_inputs(name: str, head: HeadSettings, blocks: Mapping[str, BlockSpec]) -> None:
    """Refuse blocks that are not what the head's file reads beside faces' and photos' vectors."""
    asked, where = registry.inputs_of(head.kind), f"train.heads.{name}.inputs"
    if unknown := sorted(set(head.inputs) - set(asked)):
        reads = ", ".join(asked) or "none"
        raise SettingError(f"{where}.{unknown[0]}: {head.kind} has no such input; it has {reads}")
    for key, (level, kind) in asked.items():
        names = head.inputs.get(key, ())
        if not names:
            a_block = "TEMPLATE/pixels" if kind == "pixels" else "ROLE/TAP"
            raise SettingError(f"{where}.{key} is empty, and {head.kind} reads it: name {kind} of a {level}, {a_block}")
        for block in names:
            if block not in blocks:
                raise SettingError(f"{where}.{key}: {block!r} is not extracted; there is {', '.join(blocks)}")
            found = blocks[block]
            pixels = found.tap == PIXELS and len(found.shape) == 3
            fits = len(found.shape) in _DIMENSIONS[kind] and pixels == (kind == "pixels")
            if found.level not in LEVELS[level] or not fits:
                raise SettingError(
                    f"{where}.{key}: {block!r} is a {found.level} block of shape {found.shape}, and {head.kind} reads "
                    f"{kind} of a {level} there"
                )


def _check_views(name: str, head: HeadSettings, views: ViewSettings) -> None:
    wanting = [key for key, asked in (("views", head.views == "drawn"), ("answer", head.answer == "mirrored")) if asked]
    for key in wanting:
        where = f"train.heads.{name}.{key} is {getattr(head, key)!r}"
        if key == "views" and len(view_names(views)) == 1:
            raise SettingError(f"{where}, but extract.views asks for no other view; set flip or crops there")
        if key == "answer" and not views.flip:
            raise SettingError(f"{where}, but extract.views asks for no mirrored view; set flip there")
        read = names_of(head)
        if read and all(role == IMPORTED for role, _ in read):
            raise SettingError(f"{where}, but it reads imported features only, which have no other view; remove it")


def names_of(settings: HeadSettings) -> list[tuple[str, str]]:
    """Role (or `imported`) and tap (or name) of each block that a head reads."""
    return [(role, tap) for role, _, tap in (name.partition("/") for name in settings.blocks)]


def roles(settings: HeadSettings) -> list[str]:
    """Roles that a head reads, sorted."""
    return sorted(
        {role for role, tap in names_of(settings) if role != IMPORTED and template_of(f"{role}/{tap}") is None}
    )


def imported(settings: HeadSettings) -> list[str]:
    """Names of the imported features that a head reads, sorted."""
    return sorted({name for role, name in names_of(settings) if role == IMPORTED})


def used(inputs: Inputs, settings: HeadSettings) -> ExtractSettings:
    """What a head reads, each role pinned to the backbone that played it: no stand-in, no change of mind; and
    the views that its answers are made of."""
    backbones = {
        role: inputs.extract.roles[role].model_copy(update={"backbone": inputs.plans[role].spec.name, "stand_in": None})
        for role in roles(settings)
    }
    names = {name: inputs.extract.imported[name] for name in imported(settings)}
    views = ViewSettings(flip=settings.answer == "mirrored")
    return inputs.extract.model_copy(update={"backbones": backbones, "imported": names, "views": views})


def weights_of(inputs: Inputs, settings: HeadSettings) -> dict[str, dict[str, str]]:
    """Role -> its backbone, the SHA-256 of its weights, and their licence; see `models.HeadModel`."""
    found: dict[str, dict[str, str]] = {}
    for role in roles(settings):
        plan = inputs.plans[role]
        [(_, sha256)] = next(iter(plan.blocks.values())).weights.items()
        found[role] = {"backbone": plan.spec.name, "sha256": sha256, "licence": plan.spec.licence}
    return found
