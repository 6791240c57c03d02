"""Finds the four files of a dataset: in a folder, in the cache, or from a source. Imports no torch.

A file is recognised by the checksum of its uncompressed content. The cache holds uncompressed
files; each is written under another name, checked and renamed, so that neither an interrupted
download nor a second process leaves half a file.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nullclass.core.checks import check_path, shown
from nullclass.core.errors import UserError
from nullclass.data.idx import GZIP_MAGIC, content_chunks
from nullclass.data.known import DATASETS, FILE_NAMES, KnownDataset
from nullclass.data.sources import SourceError

ANY_IDX = "idx"
"""The name under which a folder of any four IDX files is loaded."""

STALE_SECONDS = 86_400.0
"""Age of a folder of an unfinished download that is removed: no download takes so long."""

Progress = Callable[[str], None]
"""Receives one line whenever there is something to wait for."""


def print_line(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def fetch(
    name: str, data_dir: Path | None = None, progress: Progress = print_line
) -> tuple[dict[str, Path], str]:
    """Return the four files of a dataset; download those that are missing.

    Args:
        name: A key of :data:`DATASETS`, or ``"idx"`` for any four IDX files in ``data_dir``.
        data_dir: Folder with the files, gzipped or not, named ``train-images-idx3-ubyte`` or
            ``train-images.idx3-ubyte``, or torchvision's folder around them. Without it, the files
            come from the cache, which is filled from the dataset's sources: the folder
            ``nullclass`` of the user's cache folder, or the environment variable
            ``NULLCLASS_CACHE``.
        progress: Receives one line whenever there is something to wait for.

    Returns:
        The files by their names in ``FILE_NAMES``, with verified checksums if the dataset is known,
        and a sentence that says where they came from.

    Raises:
        UserError: If the name is unknown, the folder lacks files or has wrong ones, the cache
            cannot be written, or no source has the files.
    """
    if not isinstance(name, str) or (name != ANY_IDX and name not in DATASETS):
        known = (*DATASETS, ANY_IDX)
        close = difflib.get_close_matches(str(name).lower().replace("_", "-"), known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        names = ", ".join(known)
        raise UserError(f"there is no dataset {shown(name)}{hint}: choose one of {names}")
    if data_dir is not None:
        return _from_folder(DATASETS.get(name), check_path("data_dir", data_dir))
    if name == ANY_IDX:
        raise UserError(f'the dataset "{ANY_IDX}" is a folder of yours: give data_dir')
    return _from_cache(DATASETS[name], cache_folder() / name, progress)


def cache_folder() -> Path:
    """Return the folder that keeps fetched files, without creating it."""
    chosen = os.environ.get("NULLCLASS_CACHE")
    if chosen:
        return check_path("NULLCLASS_CACHE", chosen)
    import platformdirs  # takes 40 ms, and is seldom needed

    return platformdirs.user_cache_path("nullclass")


def _from_folder(known: KnownDataset | None, folder: Path) -> tuple[dict[str, Path], str]:
    """Return the files in a folder of the user."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder: give one that holds the four IDX files")
    subfolders = known.subfolders if known else (".", "raw", "MNIST/raw")
    # The first complete subfolder; else the fullest, to say what is missing.
    paths = max((_idx_files(folder / subfolder) for subfolder in subfolders), key=len)
    missing = [name for name in FILE_NAMES if name not in paths]
    if missing:
        raise UserError(
            f"the folder {folder} lacks {', '.join(missing)}: add the file (.gz or not), "
            f"or give no folder, to fetch a known dataset"
        )
    if known is None:
        return paths, f"four IDX files in the folder {folder}"
    for name, path in paths.items():
        if not _is_right(path, known, name):
            raise UserError(
                f"{path} is not {known.title}'s {name} (its checksum differs): replace it, or "
                f'load the folder as the dataset "{ANY_IDX}" if it is meant to be something else'
            )
    return paths, f"{known.title} from the folder {folder}, checksums verified"


def _is_right(path: Path, known: KnownDataset, name: str) -> bool:
    """Whether a file holds the content of a known one.

    Raises:
        UserError: If it cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in content_chunks(path, known.sizes[name]):
        digest.update(chunk)
    return digest.hexdigest() == known.md5[name]


def _idx_files(folder: Path) -> dict[str, Path]:
    """Return the IDX files of one folder, in either spelling, uncompressed ones first."""
    paths = {}
    for name in FILE_NAMES:
        dotted = name.replace("-idx", ".idx")
        for spelling in (name, dotted, f"{name}.gz", f"{dotted}.gz"):
            if os.path.isfile(folder / spelling):
                paths[name] = folder / spelling
                break
    return paths


def _from_cache(
    known: KnownDataset, folder: Path, progress: Progress
) -> tuple[dict[str, Path], str]:
    """Return the files in the cache; fetch those that are missing or damaged."""
    missing = []
    for name in FILE_NAMES:
        path = folder / name
        if os.path.isfile(path):  # unlike Path.is_file, False without permission
            if _is_right(path, known, name):
                continue
            progress(f"{known.title}: {name} in the cache is damaged and will be replaced")
        missing.append(name)
    origins = _download(known, folder, missing, progress) if missing else ["the cache"]
    paths = {name: folder / name for name in FILE_NAMES}
    return paths, f"{known.title} from {' and '.join(origins)}, checksums verified"


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
        f"{', '.join(FILE_NAMES)} into a folder and give it as data_dir"
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
        is_gzipped = stream.read(2) == GZIP_MAGIC  # some servers decompress what they send
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
