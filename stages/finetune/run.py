"""Fine-tuning a backbone: pixels of the training split -> weights, what they have seen, and the photos' answers.

A fine-tune has a folder of its own. While training runs there is a checkpoint in it, from which a stopped run goes on;
the other files are written when it has ended.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stages.backbones import registry, weights
from stages.backbones.about import require_backbone
from stages.device import resolve
from stages.errors import DataError, MissingInputError, SettingError
from stages.extract.plan import finetuned_weights
from stages.extract.settings import fold_name, unfolded
from stages.finetune import checkpoint, done, seen
from stages.finetune.answers import Answers
from stages.finetune.history import History
from stages.finetune.loop import fit
from stages.finetune.network import Network
from stages.finetune.pixels import Pixels, Source
from stages.finetune.seen import Rows, Seen
from stages.finetune.settings import WEIGHTS, FinetuneSettings, PhotosChoice
from stages.finetune.tasks import Task, task_of
from stages.heads.shares import no_class, require_shares
from stages.index.manifest import Manifest, Sample
from stages.index.subsets import require_subsets, without

CHECKPOINT = "checkpoint"
"""Folder of the checkpoint, in that of the fine-tune."""

HELD_OUT = "held out"
"""The split of a fold's samples while the others are trained on."""


@dataclass(frozen=True)
class Place:
    """Where a fine-tune writes, and where those are that it may start from.

    Attributes:
        folder: has a folder for each fine-tune, by its name.
        name: of this one.
        weights_dir: the weights folder.
        located: where the PATH of `start: folder:PATH` is; a script's are relative to its working directory.
    """

    folder: Path
    name: str
    weights_dir: Path
    located: Callable[[str], Path] = Path

    @property
    def own(self) -> Path:
        """This fine-tune's folder."""
        return self.folder / self.name

    def weights_before(self, start: FinetuneSettings | PhotosChoice, fold: int | None = None) -> Path | None:
        """Where the weights are that a network starts from, whether they are there or not; None: from no fine-tune.

        Args:
            start: what is said of the network.
            fold: of the fine-tune that is named; None: that itself.
        """
        if start.before is None:
            return None
        folder = self.folder / start.before if start.elsewhere is None else self.located(start.elsewhere)
        name = folder.name if fold is None else fold_name(folder.name, fold)
        return finetuned_weights(folder.parent, name, registry.get_spec(start.backbone))


@dataclass(frozen=True)
class Result:
    """What came of a fine-tune.

    Attributes:
        weights: the backbone's file; where there is none the head's.
        history: loss and accuracy, by steps and epochs.
        started: lines on where the weights came from.
        rows: split -> how many rows (faces or photos) it was trained on (`train`) or judged by (`val`).
        left_out: why -> how many training samples are no row.
        answers: of every sample of the manifest.
        further: the same for each of `settings.answers`.
        seen: what the weights have seen.
        seconds: that the training of this run took.
        trained: False: an earlier run had trained the same on the same data, and its weights were read.
        no_class: with `targets: shares`, what training samples have shares of that is no class, and does not count.
    """

    weights: Path
    history: History
    started: tuple[str, ...]
    rows: dict[str, int]
    left_out: dict[str, int]
    answers: Answers
    seen: Seen
    seconds: float
    trained: bool
    further: dict[str, Answers] = field(default_factory=dict)
    no_class: tuple[str, ...] = ()


def run(manifest: Manifest, source: Source, settings: FinetuneSettings, place: Place) -> Result:
    """Train what `settings` name, or go on where an earlier run was stopped. What is trained already is only asked.

    Writes the parts of the network (`backbone.safetensors` and `last_layer.safetensors`; with a head
    `head.safetensors`, and `photos.safetensors` of a second network), what they have seen (`backbone.seen.json` and so
    on, see `seen`), `steps.csv` and `epochs.csv` (see `History`), and `training.json` (see `done`).

    Args:
        source: of the pixels; its ledger takes the samples that are missing or cannot be read.

    Raises:
        SettingError: settings, backbone and data do not fit, the loss is no longer a number, or memory is too small.
        MissingInputError: no crops, or no fine-tune of the name or in the folder that `settings.start` gives.
        DataError: no training sample, or none of a class, or none with shares where these are wanted.
        WeightsError: weights or the checkpoint are missing, damaged or of another network.
    """
    task = task_of(source, settings)
    earlier = _earlier(settings, place)
    train, left_out = _training(task, source, manifest, f"finetune.{unfolded(place.name)}")
    val = _judging(task, source, [s for s in manifest if s.split == "val"])
    network, started = task.start(place.weights_dir, earlier)
    about = _about(task, source, train, val, earlier, place)
    identity = checkpoint.identity(settings, source.classes, about)
    before = done.read(place.own, network, identity)
    began = time.monotonic()
    history = before or fit(network, train, val, settings, place.own / CHECKPOINT, about=about)
    seconds = time.monotonic() - began
    has_seen = _seen(network, settings, train, val, earlier)
    if before is None:
        _write(task, network, has_seen, place)
        history.write(place.own)
        done.write(place.own, network, identity, history)
        shutil.rmtree(place.own / CHECKPOINT, ignore_errors=True)
    _tell(network, has_seen, place)
    network.to(resolve(settings.device))
    found = task.answers(network, manifest.samples, source.ledger)
    file = place.own / f"{next(iter(network.parts()))}.safetensors"
    return Result(
        weights=file,
        history=history,
        started=started,
        rows={"train": len(train)} | ({"val": len(val)} if val else {}),
        left_out=left_out,
        answers=found.pop(""),
        seen=seen.read(file),
        seconds=seconds,
        trained=before is None,
        further=found,
        no_class=no_class(train.samples, source.classes) if settings.targets == "shares" else (),
    )


def _earlier(settings: FinetuneSettings, place: Place) -> dict[str, Path]:
    """For each network that starts from a fine-tune, by the name of its file here: the file of its weights there."""
    files = {}
    for part, asked in settings.networks.items():
        path = place.weights_before(asked)
        if path is None:
            continue
        where = f"finetune.{unfolded(place.name)}" + (f".{part}" if part != "backbone" else "") + ".start"
        if asked.previous == place.name:
            raise SettingError(f"{where} is finetune:{place.name}: it cannot start from itself")
        if asked.elsewhere is not None and path.parent.parent.resolve() == place.folder.resolve():
            name = path.parent.name
            raise SettingError(f"{where} is {asked.start}, a fine-tune of this project: use finetune:{name}")
        require_there(path, asked)
        if asked.elsewhere is not None:
            require_backbone(path, registry.get_spec(asked.backbone).name, where)
        files[part] = path
    return files


def require_there(path: Path, asked: FinetuneSettings | PhotosChoice) -> None:
    """Refuse to start from a fine-tune that has not been trained.

    Args:
        path: of its weights.

    Raises:
        MissingInputError: names the file, and the command.
    """
    if path.exists():
        return
    if asked.elsewhere is None:
        raise MissingInputError(f"{path} is not there; run kuleshov finetune {asked.previous}")
    raise MissingInputError(
        f"{path} is not there, and start is {asked.start}: name a fine-tune's folder, or run kuleshov finetune "
        f"{unfolded(path.parent.name)} in the project that it is of"
    )


def _training(task: Task, source: Source, manifest: Manifest, where: str) -> tuple[Pixels, dict[str, int]]:
    """The rows that are trained on, and why how many training samples are none of them.

    Args:
        where: the fine-tune's settings, for messages.
    """
    settings, place = task.settings, f"{where}.leave_out"
    samples = [s for s in manifest if s.split == "train"]
    require_subsets((s for s in manifest if s.split in ("train", HELD_OUT)), settings.leave_out, place)
    train = task.pixels(without(samples, settings.leave_out, place), varied=True)
    if settings.targets == "shares":
        require_shares(train.samples, source.classes, f"{where}.targets is shares")
    of_subsets = Counter(s.subset for s in samples if s.subset in settings.leave_out)
    left_out = {"without a face": len(train.faceless), "without one label": len(train.unlabelled)}
    left_out |= {f"of subset {name}": count for name, count in sorted(of_subsets.items())}
    return train, {why: count for why, count in left_out.items() if count}


def _judging(task: Task, source: Source, samples: Sequence[Sample]) -> Pixels | None:
    """The validation split's rows; None where it has none that can be judged."""
    usable = [s for s in source.detections.readable(samples) if len(s.labels) == 1 and s.labels[0] in source.classes]
    if task.needs_face:
        usable = [s for s in usable if len(source.detections.faces(s.sample_id))]
    if usable:
        return task.pixels(usable, varied=False)
    if task.settings.patience is not None:
        raise SettingError(
            f"patience is {task.settings.patience}, but split val has no sample to judge by: leave it out, or set "
            "data.split"
        )
    return None


def _about(
    task: Task, source: Source, train: Pixels, val: Pixels | None, earlier: Mapping[str, Path], place: Place
) -> dict[str, str]:
    """What makes another training of the same settings."""
    settings, classes = task.settings, source.classes
    about = {"data": _data_hash(train), "validation": _data_hash(val) if val else "", "classes": ", ".join(classes)}
    if settings.unit != "photo" or source.detections.times:  # a clip's frames are those that were looked at
        about["detections"] = source.detections.key
    for part, asked in settings.networks.items():
        name = "starts from" if part == "backbone" else f"{part} start from"
        if part in earlier:
            about[name] = seen.sha256_of(earlier[part])
        elif asked.start == WEIGHTS:
            about[name] = weights.sha256(registry.get_spec(asked.backbone).weights, place.weights_dir)
    return about


def _data_hash(pixels: Pixels) -> str:
    """Of the samples' names and contents, and of their groups: what the weights have seen is told by these. Where
    shares are wanted, of these as well."""
    of = [pixels.samples[i] for i in pixels.sample_of.tolist()]
    shares = {s.sample_id: f"\0{s.shares}" for s in of} if pixels.shares is not None else {}
    ids = (f"{s.sample_id}\0{s.content}\0{s.group}{shares.get(s.sample_id, '')}" for s in of)
    return checkpoint.data_hash(ids, pixels.labels)


def _seen(
    network: Network, settings: FinetuneSettings, train: Pixels, val: Pixels | None, earlier: Mapping[str, Path]
) -> Seen:
    """What was seen, of weights that are still to be named. Trained together, each part has seen what all have."""
    judged = val.samples if val is not None and settings.patience is not None else ()
    has_seen = Seen(
        weights="",
        trained=Rows.of(train.samples),
        stopped=Rows.of(judged),
        settings=settings.model_dump(mode="json"),
        preset=settings.preset,
        classes=network.classes,
        seed=settings.seed,
        start=settings.start,
    )
    for file in earlier.values():
        has_seen = has_seen.after(seen.read(file))
    return has_seen


def _write(task: Task, network: Network, has_seen: Seen, place: Place) -> None:
    """The weights. What they have seen is in their metadata by its hash: other samples, or groups, are other bytes,
    and so another key, even where they train the same numbers."""
    parts = network.parts()
    for old in place.own.glob("*.safetensors"):  # of a training with other parts
        if old.stem not in parts:
            old.unlink()
            seen.place(old).unlink(missing_ok=True)
    checkpoint.save_parts(place.own, parts, task.describe(network) | {"seen": has_seen.rows_hash})


def _tell(network: Network, has_seen: Seen, place: Place) -> None:
    """Write what the weights have seen, where no file says it."""
    for part in network.parts():
        file = place.own / f"{part}.safetensors"
        if part == "last_layer":
            continue
        try:
            seen.read(file)
        except (MissingInputError, DataError):
            seen.write(file, replace(has_seen, weights=seen.sha256_of(file)))
