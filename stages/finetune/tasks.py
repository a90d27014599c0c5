"""What is trained together on which pixels: a backbone below a last layer, or networks below a head.

`run` asks a task for its pixels, its network as it starts, and the answers of the trained one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from stages.backbones import registry
from stages.errors import SettingError
from stages.finetune.answers import Answers, answer, outputs
from stages.finetune.network import EndToEnd, Finetuned, Network
from stages.finetune.pixels import Pixels, Source, face_pixels, joint_pixels, photo_pixels
from stages.finetune.settings import AugmentSettings, FinetuneSettings
from stages.finetune.start import describe, describe_joint, reads_of, start, start_joint
from stages.heads import registry as heads
from stages.heads.shares import share_targets
from stages.index.manifest import Sample
from stages.ledger import Ledger

_WORDS = {"image": "whole photos", "face": "faces"}


class Task(Protocol):
    """What is trained.

    Attributes:
        settings: of the fine-tune.
        needs_face: whether samples without a face are no rows.
    """

    settings: FinetuneSettings

    @property
    def needs_face(self) -> bool: ...

    def pixels(self, samples: Sequence[Sample], *, varied: bool) -> Pixels:
        """The rows of labelled samples, in random views (`varied`) or in the plain one.

        Raises:
            Exception: what `face_pixels` raises.
        """
        ...

    def start(self, weights_dir: Path, previous: Mapping[str, Path]) -> tuple[Network, tuple[str, ...]]:
        """The network before its training, and lines on where its weights come from; see `start`.

        Args:
            previous: for each of `settings.networks` that starts from a fine-tune, the file of its weights.
        """
        ...

    def describe(self, network: Network) -> dict[str, object]:
        """What is written beside the weights; see `start.describe`."""
        ...

    def answers(self, network: Network, samples: Sequence[Sample], ledger: Ledger) -> dict[str, Answers]:
        """The trained network's answers, of samples with and without labels, by `settings.hows`; see `answers.answer`.

        The network computes once, whatever ways there are.
        """
        ...


class Alone:
    """A backbone below a last layer.

    Args:
        source: of the pixels.
        settings: see `FinetuneSettings`.
    """

    def __init__(self, source: Source, settings: FinetuneSettings) -> None:
        self.source, self.settings = source, settings
        self._spec = registry.get_spec(settings.backbone)

    @property
    def needs_face(self) -> bool:
        """See `Task`."""
        return self.settings.unit != "photo"

    def pixels(self, samples: Sequence[Sample], *, varied: bool) -> Pixels:
        """See `Task`."""
        augment = self.settings.augment if varied else AugmentSettings()
        return _with_shares(self._pixels(samples, self.settings, augment), self.settings)

    def start(self, weights_dir: Path, previous: Mapping[str, Path]) -> tuple[Network, tuple[str, ...]]:
        """See `Task`."""
        file = previous.get("backbone")
        network, started = start(self.settings, self.source.classes, weights_dir=weights_dir, previous=file)
        return network, started.said

    def describe(self, network: Network) -> dict[str, object]:
        """See `Task`."""
        assert isinstance(network, Finetuned)  # noqa: S101 - `start` made it
        return describe(network, self.settings)

    def answers(self, network: Network, samples: Sequence[Sample], ledger: Ledger) -> dict[str, Answers]:
        """See `Task`."""
        assert isinstance(network, Finetuned)  # noqa: S101 - `start` made it
        settings = self.settings
        if settings.unit == "faces":  # each face is a row, whatever was trained: they are averaged afterwards
            settings = settings.model_copy(update={"unit": "face", "frames": None})
        network.unit = settings.unit
        pixels = self._pixels(samples, settings, AugmentSettings(), labelled=False)
        return _answers(network, pixels, settings, ledger)

    def _pixels(
        self,
        samples: Sequence[Sample],
        settings: FinetuneSettings,
        augment: AugmentSettings,
        *,
        labelled: bool = True,
    ) -> Pixels:
        source, spec = self.source, self._spec
        if settings.unit == "photo":
            return photo_pixels(source, samples, spec, augment, labelled=labelled)
        unit, most, frames = settings.unit, settings.max_faces, settings.frames
        return face_pixels(source, samples, spec, augment, unit=unit, max_faces=most, frames=frames, labelled=labelled)


class Joint:
    """A network of faces and one of photos, or one of them, below a head: trained together, end to end.

    Without a network of photos a sample without a face is no row; with one it stays, and the head sees the photo alone.

    Args:
        source: of the pixels.
        settings: with a head.

    Raises:
        SettingError: there is no such head or backbone, or a network does not see what is asked of it, or the head does
            not read just what the networks see.
    """

    def __init__(self, source: Source, settings: FinetuneSettings) -> None:
        self.source, self.settings = source, settings
        self._specs = {part: registry.get_spec(asked.backbone) for part, asked in settings.sights.items()}
        assert settings.head is not None  # noqa: S101 - `task_of` asks
        _require_what_it_reads(settings, settings.head.kind)
        wanted = {"backbone": "image" if settings.unit == "photo" else "face", "photos": "image"}
        for part, spec in self._specs.items():
            if spec.input != wanted[part]:
                what = f"unit is {settings.unit}, and the backbone" if part == "backbone" else "photos.backbone"
                sees = {"image": "photos", "face": "crops of faces"}[spec.input]
                raise SettingError(f"{what} {spec.name} sees {sees}: use one of {_WORDS[wanted[part]]}")

    @property
    def needs_face(self) -> bool:
        """See `Task`."""
        return self.settings.unit == "faces" and self.settings.photos is None

    def pixels(self, samples: Sequence[Sample], *, varied: bool) -> Pixels:
        """See `Task`. Each network has random views of its own."""
        return _with_shares(self._pixels(samples, varied=varied, labelled=True), self.settings)

    def start(self, weights_dir: Path, previous: Mapping[str, Path]) -> tuple[Network, tuple[str, ...]]:
        """See `Task`."""
        classes = self.source.classes
        network, started = start_joint(self.settings, classes, weights_dir=weights_dir, previous=previous)
        return network, started.said

    def describe(self, network: Network) -> dict[str, object]:
        """See `Task`."""
        assert isinstance(network, EndToEnd)  # noqa: S101 - `start` made it
        return describe_joint(network, self.settings)

    def answers(self, network: Network, samples: Sequence[Sample], ledger: Ledger) -> dict[str, Answers]:
        """See `Task`. Of a clip as many frames are seen as in training, spread evenly."""
        return _answers(network, self._pixels(samples, varied=False, labelled=False), self.settings, ledger)

    def _pixels(self, samples: Sequence[Sample], *, varied: bool, labelled: bool) -> Pixels:
        settings, source = self.settings, self.source
        seen = [
            (self._specs[part], asked.augment if varied else AugmentSettings())
            for part, asked in settings.sights.items()
        ]
        if settings.unit == "photo":
            return photo_pixels(source, samples, *seen[0], labelled=labelled)
        most, frames = settings.max_faces, settings.frames
        if len(seen) == 1:
            return face_pixels(
                source, samples, *seen[0], unit="faces", max_faces=most, frames=frames, labelled=labelled
            )
        return joint_pixels(source, samples, seen[0], seen[1], max_faces=most, frames=frames, labelled=labelled)


def _answers(network: Network, pixels: Pixels, settings: FinetuneSettings, ledger: Ledger) -> dict[str, Answers]:
    """See `Task.answers`."""
    hows = settings.hows
    mirrored = any(how.mirrored for how in hows.values())
    found = outputs(network, pixels, settings.batch_size, mirrored=mirrored)
    return {
        name: answer(found, ledger, of=how.of, most=how.largest, mirrored=how.mirrored) for name, how in hows.items()
    }


def _with_shares(pixels: Pixels, settings: FinetuneSettings) -> Pixels:
    """The same set, with what is wanted of each sample where that is no single class."""
    if settings.targets == "labels":
        return pixels
    return replace(pixels, shares=share_targets(pixels.samples, pixels.classes))


def _require_what_it_reads(settings: FinetuneSettings, kind: str) -> None:
    """Refuse a head that reads what no network sees, and a network of what it does not read."""
    module, variant = heads.find(kind)
    faces, photos = (level in module.NEEDS[variant] for level in ("face", "global"))
    inputs = heads.inputs_of(kind)
    heads.options_of(kind, settings.head.options if settings.head is not None else {})
    if "person" in {one.level for one in inputs.values()} or (inputs and faces):
        what = "persons" if not faces else f"{', '.join(inputs)} beside faces"
        raise SettingError(f"head {kind} reads {what}, which no network here sees: train it over cached features")
    faces |= bool(inputs)
    if faces != (settings.unit == "faces"):
        reads, use = ("faces", "faces") if faces else ("no faces", "photo")
        raise SettingError(f"unit is {settings.unit}, and head {kind} reads {reads}: use unit {use}")
    if faces and photos != (settings.photos is not None):
        if photos:
            raise SettingError(f"head {kind} reads whole photos beside faces: say which network in photos")
        raise SettingError(f"photos is given, and head {kind} reads faces alone: leave photos out")
    if inputs and settings.max_faces != 1:
        raise SettingError(f"max_faces is {settings.max_faces}, and head {kind} reads one face a frame: use 1")
    reads_of(settings)


def task_of(source: Source, settings: FinetuneSettings) -> Task:
    """What these settings train.

    Raises:
        SettingError: as `Joint`.
    """
    return Alone(source, settings) if settings.head is None else Joint(source, settings)
