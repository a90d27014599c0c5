"""What `kuleshov cache` needs of a project: the blocks that its settings ask for, and a sample's items in them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cache.errors import CacheError
from cache.keys import FACES, PLAIN, WHOLE, BlockSpec, frame_key, item_key, key_list, view_key
from cache.store import BlockInfo, Store
from cache.why import flat, names_block, nearest, shown
from pipeline.crops import templates_read
from pipeline.plans import role_plans
from pipeline.project import Project
from stages.align.run import crops_block
from stages.detect.clips import TIMES_SPEC, read_clips
from stages.detect.corpus import SIZE_SPEC
from stages.detect.faces import Faces, faces_of
from stages.detect.persons import find_persons
from stages.detect.run import boxes_spec, read
from stages.detect.settings import FaceSource
from stages.errors import DataError, MissingInputError
from stages.extract.imported import find as find_imported
from stages.extract.views import names as view_names
from stages.index.manifest import Manifest, Sample

Kind = Literal["photo", "clip", "frames", "boxes", "faces", "persons"]
"""What an item of a block is: the whole photo or clip; a whole clip alone; each whole photo or chosen frame; all that
the detector finds in one of these; the project's face items; or its persons."""

Times = Mapping[str, np.ndarray]
"""Content of each clip whose frames are known -> presentation times of the chosen ones, in microseconds."""

PersonKeys = Mapping[str, Sequence[bytes]]
"""sample_id -> item keys of its persons; samples that were not detected are not in it."""

Lines = Iterator[str]


@dataclass(frozen=True)
class Wanted:
    """A block that a project's settings ask for: its spec, what its items are, in which views, and who writes it."""

    spec: BlockSpec
    kind: Kind
    command: str
    views: tuple[str, ...] = (PLAIN,)

    def keys(self, sample: Sample, source: FaceSource, times: Times, persons: PersonKeys) -> list[bytes]:
        """Item keys of a sample in it, of every view."""
        plain = sample_keys(sample, self.kind, source, times, persons)
        return [view_key(key, view) for view in self.views for key in plain]


def wanted_blocks(project: Project) -> tuple[list[Wanted], list[str]]:
    """The blocks that the settings ask for, in the order in which the stages write them, each once. Without clips in
    the manifest, and where there is none, there are no times of frames to ask for.

    Returns them, and a line for each role whose keys cannot be known because its weights are not here, and for each
    imported block that is not in the store.

    Raises:
        SettingError: a setting names what does not exist.
        WeightsError: the detector's weights are missing or not the ones that were published.
    """
    settings = project.params
    boxes = boxes_spec(settings.detect)
    found = [Wanted(SIZE_SPEC, "photo", "detect"), Wanted(boxes, "boxes", "detect")]
    if _has_clips(project):  # first: where a clip has no times, it has no size and no boxes
        found.insert(0, Wanted(TIMES_SPEC, "clip", "detect"))
    crops: dict[str, Wanted] = {}
    taps: list[Wanted] = []
    plans, missing = role_plans(project, boxes.key)
    unknown = [f"{role}: its key is not known ({error})" for role, error in missing.items()]
    for name in templates_read(project, plans.values()):
        spec = crops_block(name, boxes.key, settings.detect.faces)
        crops[spec.key] = Wanted(spec, _KINDS[spec.level], "align")
    for role, plan in plans.items():
        kind = _KINDS[plan.level]
        names = view_names(settings.extract.views)
        taps += [Wanted(spec, kind, f"extract {role}", names) for spec in plan.blocks.values()]
    brought, lost = _imported(project)
    once = {one.spec.key: one for one in (*found, *crops.values(), *taps, *brought)}
    return list(once.values()), unknown + lost


_KINDS: dict[str, Kind] = {"face": "faces", "person": "persons", "frame": "frames"}
"""By the level of what networks see."""


def _has_clips(project: Project) -> bool:
    if not (project.artifacts / "manifest.csv").exists():
        return False
    return any(sample.media == "video" for sample in project.manifest)


def _imported(project: Project) -> tuple[list[Wanted], list[str]]:
    """The imported blocks that the settings name, and a line for each that is not in the store."""
    found: list[Wanted] = []
    lost: list[str] = []
    for name in project.params.extract.imported:
        try:
            spec = find_imported(project.store, name, project.params.extract)
        except MissingInputError as error:
            lost.append(str(error))
            continue
        command = f"cache import FILE --name {name} --level {spec.level}"
        found.append(Wanted(spec, "faces" if spec.level == "face" else "photo", command))
    return found, lost


def clip_times(project: Project) -> Times:
    """The chosen frames of the project's clips that were looked into."""
    return read_clips(project.manifest, project.store, project.params.detect.clips).times


def person_keys(project: Project, manifest: Manifest, wanted: Iterable[Wanted] | None = None) -> PersonKeys:
    """The persons of a manifest's samples, so far as the store has their detections; of none where no block that is
    wanted is of persons."""
    if wanted is not None and all(one.kind != "persons" for one in wanted):
        return {}
    try:
        detections = read(manifest, project.store, project.params.detect)
    except MissingInputError:
        return {}
    samples = detections.readable(manifest.samples)
    persons = find_persons(samples, detections)
    keys = key_list(persons.keys)
    return {sample.sample_id: keys[persons.of(number)] for number, sample in enumerate(samples)}


def sample_keys(
    sample: Sample, kind: Kind, source: FaceSource, times: Times, persons: PersonKeys | None = None
) -> list[bytes]:
    """Item keys of a sample in a block of this kind.

    None where faces are given and the sample has no face box, of a clip's frames where they are not known, and of
    persons where the sample was not detected.
    """
    if kind == "persons":
        return list((persons or {}).get(sample.sample_id, ()))
    is_clip = sample.media == "video"
    if kind in ("photo", "clip"):
        return [item_key(sample.content)] if kind == "photo" or is_clip else []
    frames: list[int | None] = [None]
    if is_clip:
        frames = times.get(sample.content, np.empty(0, np.int64)).tolist()
    if kind == "faces":
        none = Faces.none((1, 1))
        return [item.key for time_us in frames for item in faces_of(sample, none, source, time_us)]
    region = FACES if kind == "boxes" else WHOLE
    return [frame_key(sample.content, time_us, region=region) for time_us in frames]


def project_items(project: Project) -> dict[str, dict[str, list[bytes]]]:
    """For every sample of the manifest its item keys by kind, see `sample_keys`.

    Raises:
        MissingInputError: there is no manifest.
    """
    kinds, source, times = get_args(Kind), project.params.detect.faces, clip_times(project)
    persons = person_keys(project, project.manifest)
    return {
        sample.sample_id: {kind: sample_keys(sample, kind, source, times, persons) for kind in kinds}
        for sample in project.manifest.samples
    }


def why(project: Project, target: str) -> Lines:
    """What `kuleshov cache why` says of a sample of the project, or of a block.

    Raises:
        DataError: there is no such sample or block.
    """
    has_project = (project.folder / "params.yaml").exists()
    if has_project and (project.artifacts / "manifest.csv").exists():
        sample = next((s for s in project.manifest.samples if s.sample_id == target), None)
        if sample is not None:
            return _why_sample(project, sample)
    blocks = list(project.store.blocks(shared=True))
    chosen = [info for info in blocks if names_block(target, info.spec, info.path.name)]
    if not chosen:
        raise DataError(
            f"{target!r} is no sample of {project.artifacts / 'manifest.csv'} and no block of {project.store.root}; "
            "kuleshov cache ls lists the blocks, kuleshov index the samples"
        )
    return _why_blocks(project, chosen, blocks, has_project)


def _why_sample(project: Project, sample: Sample) -> Lines:
    wanted, unknown = wanted_blocks(project)
    blocks = list(project.store.blocks(shared=True))
    names = {info.spec.key: info.spec.name for info in blocks} | {one.spec.key: one.spec.name for one in wanted}
    source, times = project.params.detect.faces, clip_times(project)
    persons = person_keys(project, Manifest((sample,)), wanted)
    yield f"{sample.sample_id}: {sample.path}, content {sample.content[:12]}"
    unread = faceless = personless = ""  # why later blocks have no item of this sample
    probed = True
    for one in wanted:
        spec, keys = one.spec, one.keys(sample, source, times, persons)
        if one.kind == "clip" and not keys:
            continue
        if not keys and one.kind == "faces":
            faceless = "no item, the data give this sample no face box"
        if not keys and one.kind == "persons" and sample.sample_id in persons:
            personless = "no item, this sample has no person box in the photo and no face"
        absent = unread or {"faces": faceless, "persons": personless}.get(one.kind, "")
        if one.command == "detect" and probed:
            absent = ""
        of = names.get(spec.inputs.get("crops", "")) if spec.level == "person" else None  # two roles may be of one name
        head = f"{spec.name} ({spec.level}{f', of {of}' if of else ''}): "
        block = project.store.open(spec)
        here = block.statuses(keys)
        if all(here) and keys:
            detail = next((d for _, s, d in map(block.item, keys) if s not in {"ok", "no_face"} and d), "")
            yield head + _hit(here, block.count(keys).tolist(), spec.key, detail)
        elif absent:
            yield head + absent
        elif not keys:
            yield f"{head}miss, kuleshov {one.command} computes it"
        else:
            some = f"{sum(map(bool, here))} of {len(keys)} items here; " if any(here) else ""
            yield f"{head}miss, {some}kuleshov {one.command} computes it"
            lacking = [key for key, status in zip(keys, here, strict=True) if not status]
            yield from _nearest(project.store, spec, lacking, blocks, names)
        if one.command == "detect" and here:
            bad = next((status for status in here if status not in {"ok", "no_face", ""}), None)
            if bad is not None:
                unread, probed = f"no item, detection failed ({bad})", probed and one.kind != "clip"
            elif set(here) == {"no_face"} and source == "found":
                faceless = f"no item, no face was found in this {'photo' if sample.media == 'image' else 'clip'}"
    yield from unknown


def _hit(statuses: Sequence[str], rows: Sequence[int], key: str, detail: str) -> str:
    counts = ", ".join(
        status if count == 1 and len(statuses) == 1 else f"{status} {count} items"
        for status, count in sorted(Counter(statuses).items())
    )
    failed = not set(statuses) <= {"ok", "no_face"}
    remedy = f"{f' ({detail})' if detail else ''}; kuleshov cache retry forgets it" if failed else ""
    return f"hit, {counts}, {_number(sum(rows), 'row')}, key {key[:16]}{remedy}"


def _nearest(
    store: Store, spec: BlockSpec, keys: Sequence[bytes], blocks: Sequence[BlockInfo], names: dict[str, str]
) -> Lines:
    """Of the other blocks of this name: the nearest that holds the items, else the nearest, and what differs."""
    own = next((info for info in blocks if info.spec.key == spec.key), None)
    if own is None:
        yield f"  no block has the key {spec.key[:16]}"
    else:
        lacking = "this one" if len(keys) == 1 else f"these {len(keys)}"
        yield f"  block {own.path.name} has this key and {_number(own.items, 'item')}, but not {lacking}"
    ranked = nearest(spec, blocks)
    if not ranked:
        yield f"  there is no other block of {spec.name} at level {spec.level}"
        return
    for info, found in ranked:
        try:
            holds = bool(store.open(info.spec).has(keys).all())
        except CacheError as error:  # damage there is no reason here
            yield f"  block {info.path.name} cannot be read: {error}"
            continue
        if holds:
            yield f"  the same item is in block {info.path.name}, with another key:"
            yield from (f"    {difference.line(info.path.name, names)}" for difference in found)
            return
    if own is None:
        info, found = ranked[0]
        yield f"  the nearest block is {info.path.name}, without this item:"
        yield from (f"    {difference.line(info.path.name, names)}" for difference in found)


def _why_blocks(project: Project, chosen: Sequence[BlockInfo], blocks: Sequence[BlockInfo], has_project: bool) -> Lines:
    wanted, unknown = wanted_blocks(project) if has_project else ([], [])
    names = {info.spec.key: info.spec.name for info in blocks} | {one.spec.key: one.spec.name for one in wanted}
    for info in chosen:
        yield from _described(info, names)
        same = [one for one in wanted if (one.spec.name, one.spec.level) == (info.spec.name, info.spec.level)]
        if not has_project:
            yield f"  {project.folder} is no project: nothing to compare it with"
        elif any(one.spec.key == info.spec.key for one in same):
            yield "  the settings of this project ask for this block"
        elif not same:
            yield f"  the settings of this project ask for no {info.spec.name} at level {info.spec.level}"
            yield from (f"  {line}" for line in unknown)
        for one in same if all(one.spec.key != info.spec.key for one in same) else ():
            [(_, found)] = nearest(one.spec, [info])
            yield f"  the settings of this project ask for another {info.spec.name}:"
            yield from (f"    {difference.line(info.path.name, names)}" for difference in found)


def _described(info: BlockInfo, names: dict[str, str]) -> Lines:
    spec = info.spec
    age = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.newest)) if info.newest else "never"
    size = spec.numerics.get("dtype", "float32")
    rows = {"global": "a photo or frame", "frame": "a photo or frame", "face": "a face", "person": "a person"}
    shape = "x".join(map(str, spec.shape)) or "one"
    yield f"{info.path.name}: {spec.name}, a row is {rows[spec.level]}, {shape} {size}"
    counts = (_number(info.items, "item"), _number(info.rows, "row"), _number(info.shards, "shard"))
    yield f"  {', '.join(counts)}; last written {age}; key {spec.key}"
    skip = {"source", "tap", "level", "shape"}
    yield from (f"  {path}: {shown(value, names)}" for path, value in flat(spec) if path not in skip)


def _number(count: int, unit: str) -> str:
    return f"{count} {unit}" + ("" if count == 1 else "s")
