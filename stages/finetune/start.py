"""Where training starts: random weights, those of the catalogue, or where another fine-tune ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stages.backbones import registry
from stages.backbones.states import load_strictly, read_state
from stages.errors import SettingError
from stages.finetune.checkpoint import read_about
from stages.finetune.network import Backbone, Finetuned, choose_tap
from stages.finetune.settings import RANDOM, FinetuneSettings
from stages.heads.margins import Classifier, MarginClassifier, classifier


@dataclass(frozen=True)
class Started:
    """What was done.

    Attributes:
        kept: whether the last layer is another fine-tune's.
        said: a line each on the backbone and the last layer.
    """

    kept: bool
    said: tuple[str, str]


def start(
    settings: FinetuneSettings, classes: tuple[str, ...], *, weights_dir: Path, previous: Path | None = None
) -> tuple[Finetuned, Started]:
    """The network that `settings` ask for, in training mode on the CPU. The global random state is left as it was.

    Args:
        classes: K names, in the order of the labels.
        weights_dir: the weights folder.
        previous: folder of the fine-tune that `settings.start` names, with what `checkpoint.save_parts` wrote.

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
    kept, said = _keep_last(network, settings, previous)
    return network.train(), Started(kept, (origin, said))


def start_backbone(
    settings: FinetuneSettings, *, weights_dir: Path, previous: Path | None = None, part: str = "backbone"
) -> tuple[Backbone, str]:
    """The backbone alone and a line that says where it is from; see `start`. Random weights are torch's to draw.

    Args:
        part: of the other fine-tune: `backbone`, or `faces` or `photos` of one with a head.

    Raises:
        SettingError, WeightsError: as `start`.
    """
    spec = registry.get_spec(settings.backbone)
    tap = choose_tap(spec, settings.tap)
    if settings.previous is not None:
        net = load_finetuned(settings.backbone, _folder(settings, previous) / f"{part}.safetensors")
        origin = f"fine-tune {settings.previous}"
    elif settings.start == RANDOM:
        net, origin = registry.build(settings.backbone), "random weights"
    else:
        net, origin = registry.load(settings.backbone, weights_dir=weights_dir), "the catalogue's weights"
    return Backbone(net, spec, tap, freeze_norm=settings.freeze_norm), f"{spec.name} starts from {origin}"


def load_finetuned(name: str, path: Path) -> nn.Module:
    """A backbone with the weights that a fine-tune wrote.

    Raises:
        SettingError: there is no such backbone.
        WeightsError: the file is missing or damaged, or of another network; lists keys and shapes that differ.
    """
    about = read_about(path)
    with torch.random.fork_rng(devices=[]):  # the random weights that are about to be overwritten
        net = registry.build(name)
    load_strictly(net, read_state(path), path.with_name(f"{path.name} (of {about.get('backbone', 'another network')})"))
    return net


def _folder(settings: FinetuneSettings, previous: Path | None) -> Path:
    if previous is None:
        raise SettingError(f"start is {settings.start}, and that fine-tune is not there: run it first")
    return previous


def _keep_last(network: Finetuned, settings: FinetuneSettings, previous: Path | None) -> tuple[bool, str]:
    """Take over the last layer of another fine-tune where it fits."""
    count = f"the last layer is new, for {len(network.classes)} classes"
    if settings.previous is None or settings.keep_last is False:
        return False, count
    path = _folder(settings, previous) / "last_layer.safetensors"
    why = _differs(network, settings, read_about(path)) if path.exists() else "that fine-tune had a head instead"
    if why:
        if settings.keep_last:
            raise SettingError(f"keep_last is true, but the last layer of {settings.previous} does not fit: {why}")
        return False, f"{count}: {why}"
    last: Classifier = network.last_layer
    load_strictly(last, read_state(path), path)
    if isinstance(last, MarginClassifier):
        last.iteration.zero_()  # the schedule of lambda begins again
    return True, f"the last layer is kept from fine-tune {settings.previous}"


def _differs(network: Finetuned, settings: FinetuneSettings, about: dict[str, object]) -> str:
    """Why the other last layer does not fit; empty where it does."""
    for name, now in describe(network, settings).items():
        before = about.get(name)
        if before != now and name in ("classes", "kind", "tap"):
            return f"its {name} was {_words(before)} and is {_words(now)}"
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


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
