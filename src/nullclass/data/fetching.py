"""Finds the files of known datasets: in the cache, from a source, or in a place of the user.

A file is recognised by the checksum of its content. The cache holds the files as
:class:`nullclass.data.known.KnownDataset` names them; each is written under another name, checked
and renamed, so that neither an interrupted download nor a second process leaves half a file.
Imports no torch.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from nullclass.core.checks import check_path, shown
from nullclass.core.errors import UserError
from nullclass.core.imports import is_function_name
from nullclass.data import idx
from nullclass.data.idx import GZIP_MAGIC, content_chunks
from nullclass.data.known import DATASETS, KnownDataset, known_names
from nullclass.data.sources import SourceError

STALE_SECONDS = 86_400.0
"""Age of a folder of an unfinished download that is removed: no download takes so long."""

Progress = Callable[[str], None]
"""Receives one line whenever there is something to wait for."""


def print_line(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def fetch(name: str, progress: Progress = print_line) -> tuple[dict[str, Path], str]:
    """Return the files of a known dataset in the cache; download those that are missing.

    The cache is the folder ``nullclass`` of the user's cache folder, or the environment variable
    ``NULLCLASS_CACHE``.

    Args:
        name: A key of :data:`DATASETS`.
        progress: Receives one line whenever there is something to wait for.

    Returns:
        The files by their names, with verified checksums, and a sentence that says where they came
        from.

    Raises:
        UserError: If the name is unknown, the cache cannot be written, or no source has the files.
    """
    known, folder = find_dataset(name), cache_folder() / name
    missing = []
    for file in known.md5:
        path = folder / file
        if os.path.isfile(path):  # unlike Path.is_file, False without permission
            if _is_right(path, known, file):
                continue
            progress(f"{known.title}: {file} in the cache is damaged and will be replaced")
        missing.append(file)
    origins = _download(known, folder, missing, progress) if missing else ["the cache"]
    paths = {file: folder / file for file in known.md5}
    return paths, f"{known.title} from {' and '.join(origins)}, checksums verified"


def find_dataset(name: str) -> KnownDataset:
    """Return a known dataset by its name.

    Raises:
        UserError: If there is none.
    """
    if not isinstance(name, str) or name not in DATASETS:
        hint = close_name(str(name), [*DATASETS])
        raise UserError(f"there is no dataset {shown(name)} to fetch{hint}")
    return DATASETS[name]


def close_name(name: str, names: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown name: a similar one, and all names."""
    close = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{hint}: choose one of {', '.join(names)}"


def absolute_source(data: str) -> str:
    """Return data as they can be given in another working folder: a name, or an absolute path."""
    if data in known_names() or is_function_name(data):
        return data
    return os.path.abspath(check_path("data", data))


def find_known(path: Path) -> tuple[str, dict[str, Path]] | None:
    """Return the name and the files of the known dataset in a folder, or in a file.

    Args:
        path: A folder with the files, gzipped or not, or torchvision's folder around them; or the
            only file of a dataset.

    Returns:
        None if there is no dataset that is complete and whose checksums are right.

    Raises:
        UserError: If a file cannot be read, or an archive has another checksum.
    """
    for name, known in DATASETS.items():
        folders = [path / subfolder for subfolder in known.subfolders]
        if os.path.isfile(path):
            folders = [path.parent] if known.md5.keys() == {path.name} else []
        for folder in folders:
            files = idx.find_files(folder) if known.is_idx else _named_files(known, folder)
            if files.keys() != known.md5.keys():
                continue
            by_size = sorted(files, key=known.sizes.__getitem__)
            wrong = next((f for f in by_size if not _is_right(files[f], known, f)), None)
            if wrong is None:
                return name, files
            if not known.is_idx:
                raise UserError(
                    f"{files[wrong]} is not {known.title}'s (its checksum differs): fetch it again"
                )
    return None


def _named_files(known: KnownDataset, folder: Path) -> dict[str, Path]:
    return {file: folder / file for file in known.md5 if os.path.isfile(folder / file)}


def cache_folder() -> Path:
    """Return the folder that keeps fetched files, without creating it."""
    chosen = os.environ.get("NULLCLASS_CACHE")
    if chosen:
        return check_path("NULLCLASS_CACHE", chosen)
    import platformdirs  # takes 40 ms, and is seldom needed

    return platformdirs.user_cache_path("nullclass")


def _is_right(path: Path, known: KnownDataset, name: str) -> bool:
    """Whether a file holds the content of a known one.

    Raises:
        UserError: If it cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    is_gzipped = path.suffix == ".gz" and not name.endswith(".gz")
    for chunk in content_chunks(path, known.sizes[name], is_gzipped=is_gzipped):
        digest.update(chunk)
    return digest.hexdigest() == known.md5[name]


def _download(
    known: KnownDataset, folder: Path, missing: list[str], progress: Progress
) -> list[str]:
    """Fetch verified files into the cache, and return the labels of the sources used."""
    origins: list[str] = []
    failures: list[str] = []

    def accept(name: str, path: Path) -> None:
        try:
            _install(path, folder / name, known, name)
        except OSError as error:  # of the cache, not of the source
            raise _cannot_write(folder, error) from error
        missing.remove(name)

    made = [path for path in (folder, folder.parent) if not os.path.exists(path)]
    _remove_stale(folder)
    for source in known.sources:
        count = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        progress(f"{known.title}: fetching {count} from {source.label}")
        before = len(missing)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Inside the cache, so that renaming stays within one file system.
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as workplace:
                sizes = {name: known.sizes[name] for name in missing}
                source.fetch(sizes, Path(workplace), accept)
        except SourceError as error:
            failures.append(f"{source.label}: {error}")
            progress(f"{known.title}: {error}")
        except OSError as error:
            raise _cannot_write(folder, error) from error
        if len(missing) < before:
            origins.append(source.label)
        if not missing:
            return origins
    with suppress(OSError):  # not empty
        for path in made:
            path.rmdir()
    raise UserError(
        f"{known.title} could not be fetched ({'; '.join(failures)}): go online, or put "
        f"{', '.join(known.md5)} into a folder and give it as the data"
    )


def _remove_stale(folder: Path) -> None:
    """Remove what killed downloads left; a young folder may be of one that goes on."""
    for path in folder.glob(".fetching-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path)


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to the cache {folder} ({error.strerror or error}): make room, or set "
        f"NULLCLASS_CACHE to a folder that can be written"
    )


def _install(path: Path, target: Path, known: KnownDataset, name: str) -> None:
    """Move the uncompressed content of a fetched file into the cache.

    Raises:
        SourceError: If the content is not the right one.
    """
    with path.open("rb") as stream:
        # Some servers decompress what they send.
        is_gzipped = not name.endswith(".gz") and stream.read(2) == GZIP_MAGIC
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            for chunk in content_chunks(path, known.sizes[name], is_gzipped=is_gzipped):
                stream.write(chunk)
    except UserError as error:  # a broken gzip stream
        raise SourceError(f"{name} arrived damaged") from error
    if not _is_right(part, known, name):
        raise SourceError(f"{name} arrived with another checksum than {known.md5[name]}")
    os.replace(part, target)
