"""What a role's extraction stands for: the backbone that plays it, and the key of each block it writes.

No network is loaded here and torch computes nothing: a second run with everything cached stops at this page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.keys import BlockSpec
from stages.align.persons import SIDES, Region
from stages.align.run import crops_block
from stages.backbones import registry, weights
from stages.backbones.about import require_backbone
from stages.backbones.spec import BackboneSpec
from stages.detect.settings import FaceSource
from stages.engines import TORCH_CPU, Engine
from stages.engines import resolve as resolve_engine
from stages.errors import SettingError, WeightsError
from stages.extract.elsewhere import located
from stages.extract.settings import FOLDER, ExtractSettings, finetune_command, unfolded


@dataclass(frozen=True)
class RolePlan:
    """A role resolved on this machine.

    Attributes:
        role: its name in the project.
        spec: of the backbone that plays it.
        stands_in_for: the backbone it replaces because that one's weights are missing, or None.
        blocks: tap -> the block's spec.
        crops: the block of its input crops, of faces or of persons; None for a backbone that sees whole photos.
        compression: of its rows in the store; not part of a key.
        engine: that computes it; a part of the blocks' keys.
        file: of its weights, where they are a fine-tune's; None: the catalogue's.
        finetuned: the fine-tune, as the settings name it, see `finetuned_weights`; None: it is of none.
    """

    role: str
    spec: BackboneSpec
    stands_in_for: str | None
    blocks: dict[str, BlockSpec]
    crops: BlockSpec | None
    compression: str = "none"
    engine: Engine = TORCH_CPU
    file: Path | None = None
    finetuned: str | None = None

    @property
    def level(self) -> str:
        """Of the items that it sees: `face`, `person`, or `frame` for whole photos and frames."""
        return self.crops.level if self.crops else "frame"

    @property
    def template(self) -> str | None:
        """Of its input crops; None: it sees whole photos."""
        return self.crops.source if self.crops else None


def resolve_backbone(role: str, settings: ExtractSettings, folder: Path) -> tuple[BackboneSpec, str | None]:
    """The backbone that plays a role, and the name of the one it stands in for, or None.

    Raises:
        SettingError: no such role, backbone or tap.
        WeightsError: the index of the weights folder is damaged.
    """
    if role not in settings.roles:
        known = ", ".join(sorted(settings.roles))
        raise SettingError(f"extract.backbones has no {role!r}: it has {known}")
    chosen = settings.roles[role]
    name, missing = chosen.backbone or role, None
    spec = registry.get_spec(name)
    # Damaged weights are no missing weights: nothing stands in for those, `plan_role` refuses them.
    if chosen.stand_in is not None and not weights.status(spec.weights, folder).present:
        missing, spec = name, registry.get_spec(chosen.stand_in)
    taps = [tap.name for tap in spec.taps]
    for tap in chosen.taps:
        if tap not in taps:
            raise SettingError(f"extract.backbones.{role}.taps: {spec.name} has no {tap!r}, it has {', '.join(taps)}")
    return spec, missing


def template_of(role: str, settings: ExtractSettings, spec: BackboneSpec) -> str | None:
    """The template of the crops that a role sees, by the backbone that plays it; None: it sees whole photos.

    Raises:
        SettingError: the role names a region of photos, and its backbone sees no photos, or none of a square.
    """
    region: Region | None = settings.roles[role].region
    if region is None:
        return spec.template
    where = f"extract.backbones.{role}.region is {region!r}"
    if spec.input != "image":
        raise SettingError(f"{where}, but {spec.name} sees crops of faces; leave it out, or name a backbone of photos")
    height, width = spec.input_size
    if height != width or width not in SIDES:
        raise SettingError(
            f"{where}, but {spec.name} sees {height}x{width} px; crops of persons are squares of {SIDES[0]} to "
            f"{SIDES[-1]} px: name another backbone"
        )
    return f"{region}{width}"


def _preprocessing(spec: BackboneSpec, template: str | None) -> dict[str, object]:
    """What a block's key says of the way from pixels to the network's input."""
    facts = spec.describe()
    if template == spec.template:
        return facts
    # crops of persons have the input's size: what is said of bringing photos to it does not hold
    return {name: facts[name] for name in ("input_size", "colour", "mean", "std")} | {"template": template}


def plan_role(
    role: str,
    settings: ExtractSettings,
    folder: Path,
    detections_key: str,
    source: FaceSource,
    finetunes: Path | None = None,
    digest: str | None = None,
) -> RolePlan:
    """Resolve a role to its blocks.

    Args:
        folder: where weights are.
        detections_key: of the detections block that faces come from.
        finetunes: has a folder for each fine-tune; None: there are none.
        digest: stands for the SHA-256 of the weights, which are not looked for; the keys are nobody's then.

    Raises:
        SettingError: no such role, backbone or tap, or no such engine.
        WeightsError: the weights are missing or not the ones that were published.
    """
    spec, missing = resolve_backbone(role, settings, folder)
    template = template_of(role, settings, spec)
    crops = crops_block(template, detections_key, source) if template else None
    engine = engine_of(settings)
    by_name = {tap.name: tap for tap in spec.taps}
    file = None
    if digest is None:
        file, digest = weights_of(role, spec, settings, folder, finetunes)
    blocks = {
        tap: BlockSpec(
            source=spec.name,
            tap=tap,
            level="person" if settings.roles[role].region else by_name[tap].level,
            shape=by_name[tap].shape,
            extractor_version=spec.extractor_version,
            weights={spec.weights: digest},
            preprocessing=_preprocessing(spec, template),
            inputs={"crops": crops.key} if crops else {},
            numerics=numerics(engine, settings.dtype),
        )
        for tap in settings.roles[role].taps
    }
    chosen = settings.roles[role]
    return RolePlan(role, spec, missing, blocks, crops, chosen.compression, engine, file, chosen.finetuned)


def weights_of(
    role: str, spec: BackboneSpec, settings: ExtractSettings, folder: Path, finetunes: Path | None
) -> tuple[Path | None, str]:
    """The file of a fine-tune's weights, or None for the catalogue's; and the SHA-256 of the weights.

    Args:
        spec: of the backbone that plays the role.
        folder, finetunes: see `plan_role`.

    Raises:
        WeightsError: the weights are missing or not the ones that were published, or a fine-tune's of another backbone.
    """
    name = settings.roles[role].finetuned
    if name is None:
        return None, weights.sha256(spec.weights, folder)
    file = finetuned_weights(finetunes, name, spec) if finetunes is not None else None
    if file is None or not file.is_file():
        place = file or f"fine-tune {name}"
        raise WeightsError(
            f"{place} is not there: extract.backbones.{unfolded(role)} is of it; put it there, or run "
            f"{finetune_command(name)}"
        )
    require_backbone(file, spec.name, f"extract.backbones.{role}")
    return file, weights.hash_file(file)


def finetuned_weights(finetunes: Path, name: str, spec: BackboneSpec | None = None) -> Path:
    """The file that a fine-tune of this name writes: of its backbone; or for a network of whole photos of the second
    one, where it has two.

    Args:
        finetunes: the project's `artifacts/finetune`.
        name: of the fine-tune; or `folder:PATH`, relative to the project.
        spec: of the network that the weights are for; None: what the fine-tune calls its backbone.
    """
    folder = finetunes / name
    if name.startswith(FOLDER):
        folder = located(finetunes.parent.parent, name.removeprefix(FOLDER))
    photos = folder / "photos.safetensors"
    if spec is not None and spec.input == "image" and photos.is_file():
        return photos
    return folder / "backbone.safetensors"


def together(plans: Sequence[RolePlan]) -> list[list[RolePlan]]:
    """The plans in groups that see the same pixels, and share a pass."""
    groups: dict[str | None, list[RolePlan]] = {}
    for plan in plans:
        groups.setdefault(plan.crops.key if plan.crops else None, []).append(plan)
    return list(groups.values())


def engine_of(settings: ExtractSettings) -> Engine:
    """What computes the backbones of a project on this machine.

    Raises:
        SettingError: the settings contradict each other.
    """
    return resolve_engine("extract", settings.engine, settings.device, settings.compute, settings.compile)


def numerics(engine: Engine, dtype: str) -> dict[str, str]:
    """What rounds a backbone's values: a part of the key."""
    layout = {"layout": engine.layout} if engine.layout else {}
    compiled = {"compile": "torch.compile"} if engine.compile else {}
    return {"engine": engine.name, **layout, **compiled, "compute": engine.compute, "dtype": dtype}
