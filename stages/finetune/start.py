"""Where training starts: random weights, those of the catalogue, or where another fine-tune ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.backbones import registry
from stages.backbones.about import read_about
from stages.backbones.spec import BackboneSpec, Tap
from stages.backbones.states import load_strictly, read_state
from stages.errors import SettingError
from stages.finetune.network import Backbone, EndToEnd, Finetuned, choose_tap
from stages.finetune.settings import NOTHING, RANDOM, FinetuneSettings, PhotosChoice
from stages.heads import registry as heads
from stages.heads.margins import Classifier, MarginClassifier, classifier

HEAD = "head.safetensors"
"""The file of a head that was trained end to end, beside the networks' files."""


@dataclass(frozen=True)
class Started:
    """What was done.

    Attributes:
        kept: whether the last layer, or the head, is another fine-tune's.
        said: a line each on the networks and on what is above them.
    """

    kept: bool
    said: tuple[str, ...]


def start(
    settings: FinetuneSettings, classes: tuple[str, ...], *, weights_dir: Path, previous: Path | None = None
) -> tuple[Finetuned, Started]:
    """The network that `settings` ask for, in training mode on the CPU. The global random state is left as it was.

    Args:
        classes: K names, in the order of the labels.
        weights_dir: the weights folder.
        previous: the file of the network's weights, in the folder of the fine-tune that `settings.start` names, with
            what `checkpoint.save_parts` wrote.

    Raises:
        SettingError: the settings do not fit the backbone, or `keep_last` the classes.
        WeightsError: weights are missing or damaged, or are another network's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        backbone, origin = start_backbone(settings, weights_dir=weights_dir, previous=previous)
        asked = settings.classifier
        last = classifier(asked.kind, backbone.width, len(classes), asked.margin, asked.schedule)
    network = Finetuned(backbone, last, settings.unit, classes, settings.dropout)
    kept, said = _keep(last, "last layer", describe(network, settings), settings, previous)
    return network.train(), Started(kept, (origin, said))


def start_joint(
    settings: FinetuneSettings, classes: tuple[str, ...], *, weights_dir: Path, previous: Mapping[str, Path]
) -> tuple[EndToEnd, Started]:
    """The networks and the head that `settings` ask for, as `start`. The head is kept from the fine-tune that
    `settings.start` names.

    Args:
        previous: for each network that starts from a fine-tune, by its name in `settings.networks`, see `start`.

    Raises:
        SettingError, WeightsError: as `start`.
    """
    assert settings.head is not None  # noqa: S101 - whoever calls this has one
    made: list[Backbone] = []
    said: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        for part, asked in settings.networks.items():
            network, origin = start_backbone(asked, weights_dir=weights_dir, previous=previous.get(part))
            made.append(network)
            said.append(origin)
        faces = made.pop(0) if made and settings.unit != "photo" else None
        photos = made.pop(0) if made else None
        spec, reads = registry.get_spec(settings.backbone), reads_of(settings)
        shapes = shapes_of(spec, faces, photos, reads)
        head = heads.build(settings.head.kind, shapes, len(classes), settings.head.dropout, settings.head.options)
    network = EndToEnd(head, faces, photos, classes, reads)
    kept, of_head = _keep(head, "head", describe_joint(network, settings), settings, previous.get("backbone"))
    return network.train(), Started(kept, (*said, of_head))


def reads_of(settings: FinetuneSettings) -> dict[str, Tap | None]:
    """What the head reads of each frame beside vectors, by its name: a tap of the backbone, None for pixels.

    Maps and vectors are the taps of their names. One alone, of another name, is the tap that `settings` chooses, or the
    first that has its kind.

    Raises:
        SettingError: the backbone has no such tap, or the head reads what no network here sees.
    """
    assert settings.head is not None  # noqa: S101 - whoever calls this has one
    kind, spec = settings.head.kind, registry.get_spec(settings.backbone)
    inputs = heads.inputs_of(kind)
    wanted = {name: one for name, one in inputs.items() if one.kind != "pixels"}
    named = {tap.name: tap for tap in spec.taps}
    if settings.start == NOTHING and (wanted or not inputs):
        what = ", ".join(wanted) or "vectors"
        raise SettingError(f"start is none, and head {kind} reads {what}: say where the network starts that gives it")
    if inputs and not wanted and settings.start != NOTHING:
        raise SettingError(f"head {kind} reads pixels and nothing of a network: use start: none, not {settings.start}")
    if settings.tap is not None and wanted and wanted.keys() <= named.keys():
        raise SettingError(f"tap is {settings.tap}, and head {kind} reads {', '.join(wanted)} by name: leave tap out")
    reads: dict[str, Tap | None] = dict.fromkeys(inputs)
    for name, one in wanted.items():
        fitting = [tap for tap in spec.taps if one.kind in ("features", "vector" if len(tap.shape) == 1 else "map")]
        chosen = [named[name]] if name in named else []
        if not chosen and len(wanted) == 1:
            chosen = [choose_tap(spec, settings.tap)] if settings.tap is not None else fitting[:1]
        if not chosen or chosen[0] not in fitting:
            taps = ", ".join(f"{tap.name} {tap.shape}" for tap in spec.taps)
            raise SettingError(
                f"head {kind} reads {name} ({one.kind}), and {spec.name} has {taps}: use another backbone"
            )
        reads[name] = chosen[0]
    return reads


def shapes_of(
    spec: BackboneSpec, faces: Backbone | None, photos: Backbone | None, reads: Mapping[str, Tap | None]
) -> heads.Shapes:
    """Of what a head is given.

    Args:
        spec: of the network of faces, or of what it would see.
        reads: see `reads_of`.
    """
    return heads.Shapes(
        faces.width if faces is not None and not reads else 0,
        photos.width if photos is not None else 0,
        {name: (*spec.input_size, 3) if tap is None else tap.shape for name, tap in reads.items()},
    )


def start_backbone(
    settings: FinetuneSettings | PhotosChoice, *, weights_dir: Path, previous: Path | None = None
) -> tuple[Backbone, str]:
    """The backbone alone and a line that says where it is from; see `start`. Random weights are torch's to draw.

    Raises:
        SettingError, WeightsError: as `start`.
    """
    spec = registry.get_spec(settings.backbone)
    tap = choose_tap(spec, settings.tap)
    if settings.before is not None:
        net = load_finetuned(settings.backbone, _file(settings, previous))
        origin = f"fine-tune {settings.before}"
    elif settings.start == RANDOM:
        net, origin = registry.build(settings.backbone), "random weights"
    else:
        net, origin = registry.load(settings.backbone, weights_dir=weights_dir), "the catalogue's weights"
    frozen = ", and is not trained" if settings.freeze else ""
    made = Backbone(net, spec, tap, freeze=settings.freeze, freeze_norm=settings.freeze_norm)
    return made, f"{spec.name} starts from {origin}{frozen}"


def load_finetuned(name: str, path: Path) -> nn.Module:
    """A backbone with the weights that a fine-tune wrote.

    Raises:
        SettingError: there is no such backbone.
        WeightsError: the file is missing or damaged, or of another network; lists keys and shapes that differ.
    """
    about = read_about(path)
    with torch.random.fork_rng(devices=[]):  # the random weights that are about to be overwritten
        net = registry.build(name)
    load_strictly(net, read_state(path), path.with_name(f"{path.name} (of {about.get(path.stem, 'another network')})"))
    return net


def _file(settings: FinetuneSettings | PhotosChoice, previous: Path | None) -> Path:
    if previous is None:
        raise SettingError(f"start is {settings.start}, and that fine-tune is not there: run it first")
    return previous


def _keep(
    above: Classifier | nn.Module,
    what: str,
    about: Mapping[str, object],
    settings: FinetuneSettings,
    previous: Path | None,
) -> tuple[bool, str]:
    """Take over the last layer or the head of another fine-tune where it fits; whether it did, and a line on it.

    Args:
        what: `last layer` or `head`.
        about: what the new one would say of itself.
    """
    classes = about["classes"]
    new = f"the {what} is new, for {len(classes) if isinstance(classes, list) else 0} classes"
    if settings.before is None or settings.keep_last is False:
        return False, new
    path = _file(settings, previous).with_name(f"{what.replace(' ', '_')}.safetensors")
    other = "last layer" if what == "head" else "head"
    same = ("classes", "kind", "widths", "options", "inputs") if what == "head" else ("classes", "kind", "tap")
    why = differs(about, read_about(path), same) if path.exists() else f"that fine-tune had a {other} instead"
    if why:
        if settings.keep_last:
            raise SettingError(f"keep_last is true, but the {what} of {settings.before} does not fit: {why}")
        return False, f"{new}: {why}"
    load_strictly(above, read_state(path), path)
    if isinstance(above, MarginClassifier):
        above.iteration.zero_()  # the schedule of lambda begins again
    return True, f"the {what} is kept from fine-tune {settings.before}"


def differs(now: Mapping[str, object], before: Mapping[str, object], names: Iterable[str]) -> str:
    """Which of these two fine-tunes' descriptions say differently, the first one; empty where none does."""
    for name in names:
        if before.get(name) != now.get(name):
            return f"its {name} was {_words(before.get(name))} and is {_words(now.get(name))}"
    return ""


def describe(network: Finetuned, settings: FinetuneSettings) -> dict[str, object]:
    """What `save_parts` is to write beside the weights, so that another fine-tune can start from them."""
    return {
        "backbone": network.backbone.spec.name,
        "tap": network.backbone.tap.name,
        "unit": network.unit,
        "classes": list(network.classes),
        "kind": settings.classifier.kind,
    }


def describe_joint(network: EndToEnd, settings: FinetuneSettings) -> dict[str, object]:
    """As `describe`: each network's name by that of its file, and of the head what `describe_head` says."""
    assert settings.head is not None  # noqa: S101 - the network has one
    networks = [one for one in (network.faces, network.photos) if one is not None]
    named = dict(zip(settings.networks, networks, strict=True))
    shapes = shapes_of(registry.get_spec(settings.backbone), network.faces, network.photos, network.reads)
    return {
        **{part: one.spec.name for part, one in named.items()},
        "taps": {part: one.tap.name for part, one in named.items()},
        "unit": settings.unit,
        "classes": list(network.classes),
        **describe_head(settings.head.kind, settings.head.options, shapes),
    }


def describe_head(kind: str, options: Mapping[str, Any], shapes: heads.Shapes) -> dict[str, object]:
    """What two heads must agree in to have one's weights: kind, widths of a face's and of a photo's vector, and where
    it has any, options and shapes of inputs. Pixels are not among them: a head may see crops or their middle."""
    full = heads.options_of(kind, options).model_dump(mode="json")
    wanted = {name for name, one in heads.inputs_of(kind).items() if one.kind != "pixels"}
    inputs = {name: list(shape) for name, shape in shapes.inputs.items() if name in wanted}
    about: dict[str, object] = {"kind": kind, "widths": [shapes.faces, shapes.global_]}
    return about | ({"options": full} if full else {}) | ({"inputs": inputs} if inputs else {})


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
