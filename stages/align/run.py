"""Alignment: the crops of every face, and of persons where somebody reads them, per template, into the store
(`TEMPLATE/pixels`, uint8 RGB).

A photo or frame is decoded once for all templates, and its crops are cut, in a decoding process; crops that are in the
store cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cache.keys import BlockSpec, key_list
from cache.store import Store
from cache.writer import BlockWriter
from stages.align.cut import Cut, Cutter, Media, Piece
from stages.align.persons import PersonTemplate
from stages.align.templates import PIXELS, Template, find_any, template_of
from stages.blocks import BlockRow, Counts, block_rows
from stages.decoding.pool import Decoded, decoded
from stages.detect.detections import Detections, Picked
from stages.detect.faces import LANDMARKS
from stages.detect.persons import Persons, find_persons
from stages.detect.settings import FaceSource
from stages.errors import MediaError
from stages.index.manifest import Manifest, Sample
from stages.index.samples import by_content
from stages.ledger import Ledger
from stages.making import style
from stages.progress import counter
from stages.timing import Timings

VERSION = 3
"""Raise it when the crops of the same photo, boxes and template change. 2: antialiased between the whole factors.
3: upright boxes within the photo are resized, not sampled."""

PERSON_VERSION = 1
"""Raise it when the crops of the same photo, person's box and template change."""


def crops_spec(template: Template, detections_key: str, source: FaceSource) -> BlockSpec:
    """The block of a template's crops.

    Args:
        detections_key: of the detections block that the faces come from.
        source: which faces, see `DetectSettings.faces`.
    """
    height, width = template.size
    return BlockSpec(
        source=template.name,
        tap=PIXELS,
        level="face",
        shape=(height, width, 3),
        extractor_version=VERSION,
        preprocessing={
            **template.describe(),
            "colour": "RGB",
            "interpolation": "box reduce, bilinear",
            "faces": source,
        },
        inputs={"detections": detections_key},
        numerics={"dtype": "uint8"},
    )


def persons_spec(template: PersonTemplate) -> BlockSpec:
    """The block of a template's crops of persons. Its items are known by their boxes, so no detection is in its key."""
    return BlockSpec(
        source=template.name,
        tap=PIXELS,
        level="person",
        shape=(*template.size, 3),
        extractor_version=PERSON_VERSION,
        preprocessing={
            **template.describe(),
            "colour": "RGB",
            "interpolation": "bilinear, antialiased",
        },
        numerics={"dtype": "uint8"},
    )


def crops_block(name: str, detections_key: str, source: FaceSource) -> BlockSpec:
    """The block of crops that a template's name (`person224`), or a block's (`person224/pixels`), stands for.

    Args:
        detections_key, source: of the faces, see `crops_spec`; those of persons do not depend on them.

    Raises:
        SettingError: there is no such template.
    """
    template = find_any(template_of(name) or name)
    if isinstance(template, PersonTemplate):
        return persons_spec(template)
    return crops_spec(template, detections_key, source)


def run(
    manifest: Manifest,
    images_root: Path,
    store: Store,
    detections: Detections,
    templates: Sequence[str],
    source: FaceSource,
    ledger: Ledger,
    timings: Timings | None = None,
) -> tuple[list[BlockRow], Counts]:
    """Cut the crops that are not in the store yet; record photos and clips that cannot be read in the ledger.

    A sample without a face has no item here, and one without a person none in the templates of persons. Of a clip whose
    reading ends in the middle, what was cut before stays. Where persons are cut, samples with a person's box of which
    nothing lies in the photo are recorded too (`box_outside`); their other persons are cut.

    Args:
        templates: names, of faces and of persons.
        timings: takes what `decode`, `align` (cutting), `write` and `wait` took.

    Returns the rows of the stage's block manifest, and what was done.

    Raises:
        SettingError: there is no such template.
    """
    timings = Timings() if timings is None else timings
    chosen = tuple(find_any(name) for name in sorted(set(templates)))
    specs = [crops_block(template.name, detections.key, source) for template in chosen]
    blocks = [store.open(spec) for spec in specs]
    subjects = _Subjects(detections, detections.readable(manifest.samples))
    keys, owners = zip(*map(subjects.keys, chosen), strict=True) if chosen else ((), ())
    lacking = [~block.has(some) for block, some in zip(blocks, keys, strict=True)]
    contents = {
        subjects.samples[i].content
        for owner, lack in zip(owners, lacking, strict=True)
        for i in np.unique(owner[lack]).tolist()
    }
    computed = failed = 0
    if contents:
        missing = [set(key_list(some[lack])) for some, lack in zip(keys, lacking, strict=True)]
        todo = _todo(manifest, subjects, chosen, missing, contents)
        with ExitStack() as stack:
            how = style("pillow", "numpy", "av")
            writers = [stack.enter_context(store.writer(spec, how)) for spec in specs]
            answers = stack.enter_context(closing(decoded(Cutter(images_root, chosen, source == "whole"), todo)))
            bar = stack.enter_context(counter(total=len(contents), desc="align", unit="photo"))
            for media, failure in _write(answers, writers, timings):
                bar.update()
                computed += failure is None
                if failure is not None:
                    failed += len(media.samples)
                    for sample in media.samples:
                        ledger.record(sample.sample_id, *failure)
            with timings.measure("write"):
                for writer in writers:
                    writer.flush()
        blocks = [store.open(spec) for spec in specs]
    if any(isinstance(template, PersonTemplate) for template in chosen):
        for number, detail in subjects.persons.unfit:
            ledger.record(subjects.samples[number].sample_id, "box_outside", detail)
    rows = [row for block, some in zip(blocks, keys, strict=True) for row in block_rows(block, some)]
    return rows, Counts(len(detections.items), computed, failed)


@dataclass(frozen=True)
class _Subjects:
    """What is cut out of samples: their faces and their persons; persons are looked for when somebody asks."""

    detections: Detections
    samples: list[Sample]

    @cached_property
    def persons(self) -> Persons:
        return find_persons(self.samples, self.detections)

    @cached_property
    def _faces(self) -> Picked:
        return self.detections.pick(self.samples)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {sample.sample_id: number for number, sample in enumerate(self.samples)}

    def keys(self, template: Template | PersonTemplate) -> tuple[np.ndarray, np.ndarray]:
        """Item keys (K,) in a template's block, and which of the samples each is of, (K,)."""
        if isinstance(template, PersonTemplate):
            return self.persons.keys, self.persons.owner
        return self._faces.keys, self._faces.owner

    def faces_of(self, sample: Sample) -> Iterator[tuple[int, Piece]]:
        """The face items of a sample, without their templates, and the frame that each is in."""
        for frame, items in enumerate(self.detections.by_frame(sample.sample_id)):
            for item in items:
                yield frame, Piece(item.key, item.faces.boxes, item.faces.landmarks, ())

    def persons_of(self, sample: Sample) -> Iterator[tuple[int, Piece]]:
        """As `faces_of`, its persons."""
        persons = self.persons
        of = persons.of(self._numbers[sample.sample_id])
        frames, keys = persons.frame[of].tolist(), key_list(persons.keys[of])
        for frame, key, box in zip(frames, keys, persons.boxes[of], strict=True):
            yield frame, Piece(key, box[None], _NO_LANDMARKS, ())


_NO_LANDMARKS = np.full((1, len(LANDMARKS), 2), np.nan, np.float32)


def _todo(
    manifest: Manifest,
    subjects: _Subjects,
    templates: Sequence[Template | PersonTemplate],
    missing: Sequence[set[bytes]],
    contents: Collection[str],
) -> Iterator[Media]:
    """Per photo or clip that lacks crops (one of `contents`): the samples that want them, and the items, each once."""
    levels: list[tuple[Callable[[Sample], Iterator[tuple[int, Piece]]], list[int]]] = []
    for kind, of in ((Template, subjects.faces_of), (PersonTemplate, subjects.persons_of)):
        if numbers := [number for number, template in enumerate(templates) if isinstance(template, kind)]:
            levels.append((of, numbers))
    for content, shared in by_content(manifest).items():
        if content not in contents:
            continue
        times: np.ndarray | None = None
        frames: dict[int, dict[tuple[int, bytes], Piece]] = {}
        samples: list[Sample] = []
        for sample in shared:
            if sample.sample_id not in subjects.detections.items:
                continue
            times = subjects.detections.times.get(sample.sample_id)  # all samples of a clip have the same
            wanted = False
            for level, (of, numbers) in enumerate(levels):
                for frame, piece in of(sample):
                    if lacking := tuple(number for number in numbers if piece.key in missing[number]):
                        frames.setdefault(frame, {})[level, piece.key] = piece._replace(templates=lacking)
                        wanted = True
            if wanted:
                samples.append(sample)
        if frames:
            numbers = sorted(frames)
            yield Media(
                tuple(samples),
                None if times is None else tuple(times[numbers].tolist()),
                tuple(tuple(frames[number].values()) for number in numbers),
            )


def _write(
    answers: Iterator[Decoded[Media, Cut | MediaError]], writers: Sequence[BlockWriter], timings: Timings
) -> Iterator[tuple[Media, tuple[str, str] | None]]:
    """Write crops as they come; yields each photo or clip when it is through, and the failure (reason, detail)."""
    for answer in timings.each("wait", answers):
        value, failure = answer.value, None
        if isinstance(value, Cut):
            timings.add("decode", answer.seconds - value.seconds, 1)
            timings.add("align", value.seconds, sum(len(crops.pixels) for crops in value.crops))
            with timings.measure("write"):
                for crops in value.crops:
                    writers[crops.template].add(crops.key, crops.pixels)
        else:
            timings.add("decode", answer.seconds)
            failure = (value.reason, value.detail)
        if answer.last:
            yield answer.job, failure
