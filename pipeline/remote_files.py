"""Files in another place through fsspec: a folder, `memory://`, `s3://`, `ssh://`. Only `pipeline/remote.py` uses it.

A file is seen whole or not at all: where the file system can rename, it goes under a temporary name first; object
stores put whole objects.
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_storage_options

from cache.errors import CacheError
from cache.shard import sync_folder
from stages.errors import KuleshovError, SettingError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "ssh": "paramiko", "sftp": "paramiko"}
"""Protocol -> the package that it needs besides fsspec."""

_RENAMES = frozenset({"file", "local", "ssh", "sftp"})  # rename replaces, and folders must be made
_READERS = 8


class RemoteError(KuleshovError):
    """A remote place cannot be reached, read or written."""


class RemoteFiles:
    """A folder somewhere, by URL or path. Names are relative to it, with `/`.

    Attributes:
        shown: the URL as messages show it, without a password.
        local: the folder's path where it is one of this machine, else None.

    Raises:
        SettingError: the URL is of no kind that is known, or its package is not installed.
        RemoteError: the place cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.shown = without_password(url)
        with self._told("be reached"):
            fs, self._root, protocol = _connect(url, self.shown)
        self._fs: Any = fs  # drivers differ in what their methods say they give
        self._renames = protocol in _RENAMES
        self.local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def names(self, folder: str = "") -> dict[str, int | None]:
        """What lies in a folder: name -> size in bytes (None for folders); empty where there is no such folder."""
        path = self._path(folder)
        try:
            with self._told("be listed"):
                found = self._fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        sizes: dict[str, int | None] = {}
        for one in found:
            name = str(one["name"]).rstrip("/").rpartition("/")[2]
            inside = str(one["name"]).strip("/") != path.strip("/")  # object stores list a folder's mark in itself
            if inside and name not in {"", ".", ".."}:
                sizes[name] = None if one["type"] == "directory" else int(one["size"])
        return sizes

    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._told(f"give {name}"):
            return bytes(self._fs.cat_file(self._path(name)))

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Small files, several at a time where the file system can."""
        if not self._fs.async_impl or len(names) < 2:
            return [self.read(name) for name in names]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.read, names))

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file to read parts of, which are fetched when they are asked for."""
        with self._told(f"give {name}"), self._fs.open(self._path(name), "rb", block_size=1 << 16) as handle:
            yield handle

    def fetch(self, name: str, to: Path) -> None:
        """Copy a file to this machine.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._told(f"give {name} to {to.parent}"):
            self._fs.get_file(self._path(name), str(to))

    def send(self, file: Path, name: str) -> None:
        """Copy a file of this machine there."""
        self._put(name, lambda path: self._fs.put_file(str(file), path))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file there."""
        self._put(name, lambda path: self._fs.pipe_file(path, content))

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        path = self._path(name)
        folder = path.rpartition("/")[0]
        try:
            with self._told(f"take {name}"):
                if not self._renames:
                    put(path)
                    return
                self._fs.makedirs(folder, exist_ok=True)
                temporary = f"{folder}/.{os.getpid()}-{secrets.token_hex(6)}.tmp"
                try:
                    put(temporary)
                    self._sync(temporary)
                    self._fs.mv(temporary, path)
                except BaseException:
                    if self._fs.exists(temporary):
                        self._fs.rm_file(temporary)
                    raise
                if self.local:
                    sync_folder(Path(folder))
        except (FileNotFoundError, NotADirectoryError) as error:
            reason = error.strerror or error
            raise RemoteError(
                f"{self.shown}: cannot take {name} ({reason}); mend the cause and run it again"
            ) from error

    def _sync(self, path: str) -> None:
        if self.local:
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn whatever a driver raises into one line; a file that is not there stays FileNotFoundError."""
        try:
            yield
        except (KuleshovError, CacheError, FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:  # each driver has roots of its own
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RemoteError(
                f"{self.shown}: cannot {what} ({' '.join(str(reason).split())[:200]}); mend the cause and run it "
                "again: what was moved before is kept"
            ) from error


def without_password(url: str) -> str:
    """A URL as messages and logs may show it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{host}"))


def _connect(url: str, shown: str) -> tuple[AbstractFileSystem, str, str]:
    """The file system of a URL, the folder in it, and the protocol."""
    if not url.strip():
        raise SettingError("the URL is empty; use a folder, s3://BUCKET/FOLDER or ssh://USER@HOST/FOLDER")
    if "://" not in url:
        if ":" in url.partition("/")[0]:  # as scp has it, or a slash was forgotten
            raise SettingError(
                f"{shown} is no URL; use s3://BUCKET/FOLDER or ssh://USER@HOST/FOLDER, or for a folder ./{shown}"
            )
        return LocalFileSystem(), str(Path(url).expanduser().absolute()), "file"
    protocol = url.partition("://")[0]
    try:
        if protocol in {"ssh", "sftp"}:
            known_hosts = importlib.import_module("pipeline.remote_ssh").KnownHosts
            options = infer_storage_options(url)
            path = str(options.pop("path")).rstrip("/") or "/"
            return known_hosts(**{name: options[name] for name in options if name != "protocol"}), path, protocol
        fs, path = url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        remedy = f"it needs a package that is not here: pip install {package}" if package else str(error)
        raise SettingError(f"{shown}: {remedy}") from None
    except ValueError as error:
        raise SettingError(
            f"{shown}: {' '.join(str(error).split())}; use a folder, s3://BUCKET/FOLDER or ssh://USER@HOST/FOLDER"
        ) from None
    fs.invalidate_cache()
    return fs, path, protocol
