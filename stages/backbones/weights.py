"""Weights on this machine: where they are, whether they are the right ones, and taking in a user's own file.

A file counts only after its SHA-256 was compared with the catalogue's. The comparison is remembered in `verified.json`
of the weights folder by path, size and modification time, so that a file that did not change is hashed once.
`index.json` of that folder records the files that a user vouched for (`add(..., trust=True)`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from stages.backbones import fitting
from stages.backbones.catalogue import (
    FilePart,
    NpmPackage,
    Own,
    PipPackage,
    Url,
    WeightsFile,
    catalogue,
    entry,
)
from stages.errors import WeightsError

__all__ = [
    "FilePart",
    "NpmPackage",
    "Own",
    "PipPackage",
    "Url",
    "WeightsFile",
    "WeightsStatus",
    "add",
    "catalogue",
    "entry",
    "find",
    "hash_file",
    "install",
    "locate",
    "matches",
    "sha256",
    "status",
    "weights_dir",
]

ENVIRONMENT = "KULESHOV_WEIGHTS"
_VERIFIED = "verified.json"
_INDEX = "index.json"
_PREFERRED = ".safetensors"
_OWN_SUFFIXES = (".pt", ".pth", _PREFERRED)


@dataclass(frozen=True)
class WeightsStatus:
    """What is known of one entry on this machine.

    Attributes:
        name: of the entry.
        present: whether a file was found.
        path: of it, None when absent.
        verified: whether it (and its companions) have the right hash.
        sha256: of the file, 64 hex digits; None when it is not verified.
        trusted: whether it is the user's own, taken with `--trust`.
        detail: one line that says what is wrong and what to do; empty when verified.
    """

    name: str
    present: bool
    path: Path | None
    verified: bool
    sha256: str | None
    trusted: bool
    detail: str


def weights_dir() -> Path:
    """The weights folder: `$KULESHOV_WEIGHTS`, else `weights` in the user's data folder. It may not exist yet."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named).expanduser() if named else Path(platformdirs.user_data_dir("kuleshov")) / "weights"


def hash_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def matches(expected: str, found: str) -> bool:
    """Whether a hash is the expected one; `expected` may be a published prefix, but not empty."""
    return bool(expected) and found.startswith(expected)


def locate(name: str, folder: Path) -> Path:
    """The verified file of an entry: in `folder`, in an installed package, or in torch's download folder.

    Raises:
        SettingError: for a name that is not in the catalogue.
        WeightsError: when there is none or it has another hash; names the file, both hashes and the remedy.
    """
    return find(entry(name), folder)[0]


def sha256(name: str, folder: Path) -> str:
    """SHA-256 of the file that `locate` finds, 64 hex digits: what goes into a cache key.

    A user's own file has its own hash. Companions are not in it: the catalogue fixes them for each file.

    Raises:
        SettingError, WeightsError: as `locate`.
    """
    return find(entry(name), folder)[1]


def status(name: str, folder: Path) -> WeightsStatus:
    """What is known of an entry; a missing or wrong file is a status here, no error.

    Raises:
        SettingError: for a name that is not in the catalogue.
    """
    weights = entry(name)
    places = list(_candidates(weights, folder))
    trusted = False
    try:
        own = _read_index(folder).get(weights.name)
        if own is not None:
            places, trusted = [folder / own["filename"]], True
        path, found = find(weights, folder)
    except WeightsError as error:
        present = next((path for path in places if path.is_file()), None)
        return WeightsStatus(weights.name, present is not None, present, False, None, trusted, str(error))
    return WeightsStatus(weights.name, True, path, True, found, trusted, "")


def add(name: str, file: Path, folder: Path, *, trust: bool = False) -> Path:
    """Copy a file the user has into the weights folder.

    Args:
        name: of the catalogue's entry.
        file: the file; companions are looked for beside it under the catalogue's names. One that is not the
            catalogue's is read first: it must fit the network.
        folder: the weights folder; made when it is not there.
        trust: take a file with another hash as the user's own: a state dict of the network, and where a package has the
            weights only as `.safetensors`. Its hash is recorded in `index.json`, and cache keys use it.

    Returns:
        The path in the weights folder.

    Raises:
        SettingError: for a name that is not in the catalogue.
        WeightsError: when the file is missing, has another hash and is not (or may not be) trusted, is damaged, or does
            not fit the network: lists missing, unexpected and wrongly shaped keys.
    """
    weights = entry(name)
    own = file.is_file() and _may_be_own(weights, file) and not matches(weights.sha256, hash_file(file))
    sources = [file, *(file.with_name(part.filename) for part in weights.companions if not own)]
    for source in sources:
        if not source.is_file():
            raise WeightsError(f"weights of {name}: {source} is not there; give the path of the file to add")
    if own:
        fitting.check(weights.name, file)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".add-", dir=folder) as temporary:
        copies = [Path(shutil.copyfile(source, Path(temporary) / source.name)) for source in sources]
        found = hash_file(copies[0])
        if own and not trust:
            raise _mismatch(weights, weights.files[0], str(file), found)
        if trust and not matches(weights.sha256, found):
            return _take_as_own(weights, copies[0], found, folder)
        return install(weights, copies, folder)


def install(weights: WeightsFile, copies: list[Path], folder: Path) -> Path:
    """Check the hashes of files on the folder's own file system and rename them into place, the first one last.

    Args:
        weights: the entry.
        copies: the files, in the order of `weights.files`; they are moved.
        folder: the weights folder.

    Raises:
        WeightsError: when one has another hash; nothing is moved then.
    """
    parts = list(zip(weights.files, copies, strict=True))
    for part, copy in parts:
        found = hash_file(copy)
        if not matches(part.sha256, found):
            raise _mismatch(weights, part, copy.name, found)
    for part, copy in reversed(parts):
        os.replace(copy, folder / part.filename)
    _forget_own(weights.name, folder)
    return folder / weights.filename


def _may_be_own(weights: WeightsFile, file: Path) -> bool:
    """Whether a file may be the user's own: packages have formats of their own, which only they write."""
    return fitting.is_backbone(weights.name) and (isinstance(weights.source, (Url, Own)) or file.suffix == _PREFERRED)


def _take_as_own(weights: WeightsFile, copy: Path, found: str, folder: Path) -> Path:
    if not _may_be_own(weights, copy):
        raise WeightsError(
            f"weights of {weights.name}: the file has SHA-256 {found}, expected {weights.sha256}; where a package has "
            f"the weights, a file of one's own is taken only as .safetensors, a state dict of the network: save it so, "
            f"or run `kuleshov weights fetch {weights.name}`"
        )
    suffix = copy.suffix if copy.suffix in _OWN_SUFFIXES else ".pt"
    index = _read_index(folder)
    before = index.get(weights.name)
    # The hash in the name: an earlier file of the user's stays whole until the index names the new one.
    own = {"filename": f"own-{weights.name.replace(':', '-')}-{found[:8]}{suffix}", "sha256": found}
    os.replace(copy, folder / own["filename"])
    _write_json(folder / _INDEX, {"trusted": index | {weights.name: own}})
    if before is not None and before["filename"] != own["filename"]:
        (folder / before["filename"]).unlink(missing_ok=True)
    return folder / own["filename"]


def find(weights: WeightsFile, folder: Path) -> tuple[Path, str]:
    """As `locate`, for an entry: the verified file and its SHA-256.

    Raises:
        WeightsError: as `locate`.
    """
    own = _read_index(folder).get(weights.name)
    if own is not None:
        part = FilePart(own["filename"], own["sha256"])
        path = folder / part.filename
        if not path.is_file():
            raise _missing(weights, f"{path} (your own file)")
        found = _verified_hash(path, folder)
        if not matches(part.sha256, found):
            raise _mismatch(weights, part, str(path), found)
        return path, found
    wrong: WeightsError | None = None
    for path in _candidates(weights, folder):
        if path.is_file():
            try:
                return path, _check_all(weights, path, folder)
            except WeightsError as error:
                wrong = wrong or error  # another place may have the right one
    place = "your own file" if isinstance(weights.source, Own) else str(folder / weights.filename)
    raise wrong or _missing(weights, place)


def _check_all(weights: WeightsFile, path: Path, folder: Path) -> str:
    """The hash of the file at `path` when it and its companions beside it are right."""
    hashes: list[str] = []
    for part in weights.files:
        place = path if part.filename == weights.filename else path.with_name(part.filename)
        if not place.is_file():
            raise _missing(weights, str(place))
        hashes.append(_verified_hash(place, folder))
        if not matches(part.sha256, hashes[-1]):
            raise _mismatch(weights, part, str(place), hashes[-1])
    return hashes[0]


def _candidates(weights: WeightsFile, folder: Path) -> Iterator[Path]:
    if isinstance(weights.source, Own):
        return  # only what `add` recorded
    yield folder / weights.filename
    source = weights.source
    if isinstance(source, PipPackage):
        top, _, rest = source.members[0].partition("/")
        found = importlib.util.find_spec(top)  # finds a top-level package without importing it
        for place in (found.submodule_search_locations or ()) if found else ():
            yield Path(place) / rest
    elif isinstance(source, Url):
        # torch.hub's folder, and the one that facenet-pytorch writes to.
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        home = Path(os.environ.get("TORCH_HOME", str(Path(cache) / "torch"))).expanduser()
        yield home / "hub" / "checkpoints" / weights.filename
        yield home / "checkpoints" / weights.filename


def _verified_hash(path: Path, folder: Path) -> str:
    """SHA-256 of a file, remembered for its path, size and modification time."""
    before = path.stat()
    stamp = [before.st_size, before.st_mtime_ns]
    key = str(path.resolve())
    memory = _read_json(folder / _VERIFIED)
    known = memory.get(key)
    if isinstance(known, list) and len(known) == 3 and known[:2] == stamp and isinstance(known[2], str):
        return known[2]
    found = hash_file(path)
    after = path.stat()
    if [after.st_size, after.st_mtime_ns] == stamp:
        memory[key] = [*stamp, found]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / _VERIFIED, memory)
        except OSError:
            pass  # a read-only folder costs a hash each time, no more
    return found


def _read_json(path: Path) -> dict[str, object]:
    """A json object; a file that is missing or damaged reads as empty."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _read_index(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / _INDEX
    if not path.exists():
        return {}
    trusted = _read_json(path).get("trusted")
    plain = isinstance(trusted, dict) and all(
        isinstance(own, dict)
        and {"filename", "sha256"} <= own.keys()
        and Path(str(own["filename"])).name == own["filename"]
        and len(str(own["sha256"])) == 64
        for own in trusted.values()
    )
    if not plain:
        raise WeightsError(f"{path} is damaged: remove it and add your own files again with `kuleshov weights add`")
    return trusted  # type: ignore[return-value]


def _forget_own(name: str, folder: Path) -> None:
    index = _read_index(folder)
    own = index.pop(name, None)
    if own is not None:
        _write_json(folder / _INDEX, {"trusted": index})
        (folder / own["filename"]).unlink(missing_ok=True)


def _write_json(path: Path, content: object) -> None:
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _missing(weights: WeightsFile, place: str) -> WeightsError:
    remedy = f"run `kuleshov weights fetch {weights.name}` or `kuleshov weights add {weights.name} FILE`"
    if not weights.sha256 and isinstance(weights.source, Url):
        remedy = f"download {weights.source.url} and run `kuleshov weights add {weights.name} FILE --trust`"
    if isinstance(weights.source, Own):
        fits = weights.source.fits
        remedy = f"nothing fetches it: get {fits} and run `kuleshov weights add {weights.name} FILE --trust`"
    return WeightsError(f"weights of {weights.name}: {place} is not there; {remedy}")


def _mismatch(weights: WeightsFile, part: FilePart, place: str, found: str) -> WeightsError:
    vouch = f"`kuleshov weights add {weights.name} FILE --trust` if you vouch for it"
    if not part.sha256:
        return WeightsError(f"weights of {weights.name}: {place} has SHA-256 {found}, none is published; run {vouch}")
    remedy = (
        f"`kuleshov weights fetch {weights.name}`, or `kuleshov weights add {weights.name} FILE` with the right file"
    )
    if isinstance(weights.source, Own):
        remedy = vouch
    elif _may_be_own(weights, Path(place)):
        remedy += f", or {vouch}"
    return WeightsError(
        f"weights of {weights.name}: {place} ({part.filename}) has SHA-256 {found}, expected {part.sha256}; "
        f"run {remedy}"
    )
