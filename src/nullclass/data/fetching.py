"""Get the four files of a dataset: from the user's folder, the cache, or a source (no torch).

A file is known by the checksum of its uncompressed contents, wherever it came from. The cache
holds uncompressed files; each is written beside its place, checked, and only then renamed, so
neither an interrupted download nor a second process leaves half a file under a name that counts.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from nullclass.core.errors import UserError
from nullclass.data.fashion_mnist import FASHION_MNIST
from nullclass.data.idx import GZIP_MAGIC, content_chunks
from nullclass.data.known import FILE_NAMES, KnownDataset, SourceError
from nullclass.data.mnist import MNIST

DATASETS: dict[str, KnownDataset] = {
    MNIST.name: MNIST,
    FASHION_MNIST.name: FASHION_MNIST,
}
"""The datasets known by name. To add one: a file that describes it, and a line here."""

ANY_IDX = "idx"
"""The name under which a folder of any four IDX files is loaded."""

Progress = Callable[[str], None]


def say(message: str) -> None:
    """Tell the user what is being waited for: one line to standard error."""
    print(message, file=sys.stderr, flush=True)


def fetch(
    name: str, data_dir: Path | None = None, progress: Progress = say
) -> tuple[dict[str, Path], str]:
    """Find the four files of a dataset, fetching those that are not here yet.

    A folder the user names is used or refused, never passed over. Without one: the cache, then
    its sources in their order. The cache is the folder ``nullclass`` of the user's
    cache folder, or what the environment variable ``NULLCLASS_CACHE`` names.

    Args:
        name: A key of :data:`DATASETS`, or ``"idx"`` for any four IDX files in `data_dir`.
        data_dir: Folder with the files, gzipped or not, named like
            ``train-images-idx3-ubyte`` or ``train-images.idx3-ubyte``; torchvision's
            ``MNIST/raw`` inside it is found too.
        progress: Called with one line whenever there is something to wait for.

    Returns:
        The files by the names in ``FILE_NAMES``, each with the right checksum if the dataset
        has a name; and a sentence that says where they came from.

    Raises:
        UserError: If the name is unknown, the folder lacks files or holds wrong ones, the
            cache cannot be written, or no source could be reached.
    """
    known = _known(name)
    if data_dir is not None:
        return _from_folder(known, Path(data_dir).expanduser())
    if known is None:
        raise UserError(f'the dataset "{ANY_IDX}" is a folder of yours: name it with data_dir')
    return _from_cache(known, cache_folder() / known.name, progress)


def cache_folder() -> Path:
    """Where fetched files are kept; nothing is created."""
    named = os.environ.get("NULLCLASS_CACHE")
    if named:
        return Path(named).expanduser()
    import pooch  # here, not above: it takes a moment, and a named folder does not need it

    return Path(pooch.os_cache("nullclass"))


def hex_digest(path: Path, algorithm: str, *, gzipped: bool | None = None) -> str:
    """Hash of a file's uncompressed contents, in hex.

    Raises:
        UserError: If the file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in content_chunks(path, gzipped=gzipped):
        digest.update(chunk)
    return digest.hexdigest()


def _known(name: str) -> KnownDataset | None:
    """The dataset of a name; None for any IDX files."""
    if name == ANY_IDX:
        return None
    if name not in DATASETS:
        known = [*DATASETS, ANY_IDX]
        close = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"there is no dataset {name!r}{hint}: choose one of {', '.join(known)}")
    return DATASETS[name]


# The folder of the user


def _from_folder(known: KnownDataset | None, folder: Path) -> tuple[dict[str, Path], str]:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder: name one that holds the four IDX files")
    subfolders = known.subfolders if known else (".", "raw", "MNIST/raw")
    found = [_idx_files(folder / subfolder) for subfolder in subfolders]
    # The first that is complete; else the fullest, to say what is missing.
    paths = max(found, key=len)
    missing = [name for name in FILE_NAMES if name not in paths]
    if missing:
        raise UserError(
            f"the folder {folder} lacks {', '.join(missing)}: put the file there (.gz or not), "
            f"or name no folder to have a known dataset fetched"
        )
    if known is None:
        return paths, f"four IDX files in the folder {folder}"
    for name, path in paths.items():
        if hex_digest(path, "md5") != known.md5[name]:
            raise UserError(
                f"{path} is not {known.title}'s {name} (its checksum differs): replace it, or "
                f'load the folder as the dataset "{ANY_IDX}" if it is meant to be something else'
            )
    return paths, f"{known.title} from the folder {folder}, checksums verified"


def _idx_files(folder: Path) -> dict[str, Path]:
    """The IDX files of one folder, under either spelling, uncompressed ones first."""
    paths = {}
    for name in FILE_NAMES:
        dotted = name.replace("-idx", ".idx")
        for spelling in (name, dotted, f"{name}.gz", f"{dotted}.gz"):
            if os.path.isfile(folder / spelling):
                paths[name] = folder / spelling
                break
    return paths


# The cache


def _from_cache(
    known: KnownDataset, folder: Path, progress: Progress
) -> tuple[dict[str, Path], str]:
    paths = {name: folder / name for name in FILE_NAMES}
    missing = _missing(known, folder, progress)
    if not missing:
        return paths, f"{known.title} from the cache, checksums verified"
    brought_by = _fill_cache(known, folder, missing, progress)
    return paths, f"{known.title} from {' and '.join(brought_by)}, checksums verified"


def _missing(known: KnownDataset, folder: Path, progress: Progress) -> list[str]:
    """The files that the cache lacks; a damaged one counts as lacking."""
    missing = []
    for name in FILE_NAMES:
        path = folder / name
        if os.path.isfile(path):  # unlike Path.is_file, False where we may not look
            if hex_digest(path, "md5", gzipped=False) == known.md5[name]:
                continue
            progress(f"{known.title}: {name} in the cache is damaged and will be replaced")
        missing.append(name)
    return missing


def _fill_cache(
    known: KnownDataset, folder: Path, missing: list[str], progress: Progress
) -> list[str]:
    """Fetch the missing files, from as few sources as will do; the labels of those."""
    wanted: list[str] = list(missing)
    brought_by: list[str] = []
    failures: list[str] = []

    def accept(name: str, path: Path) -> None:
        try:
            _install(path, folder / name, known.md5[name])
        except OSError as error:
            raise _cannot_write(folder, error) from error
        wanted.remove(name)

    for source in known.sources:
        progress(f"{known.title}: fetching {_count(wanted)} from {source.label}")
        before = len(wanted)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Inside the cache, so that renaming stays within one file system.
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as workplace:
                source.bring(tuple(wanted), Path(workplace), accept)
        except SourceError as error:
            failures.append(f"{source.label}: {error}")
            progress(f"{known.title}: {error}")
        except OSError as error:
            raise _cannot_write(folder, error) from error
        if len(wanted) < before:
            brought_by.append(source.label)
        if not wanted:
            return brought_by
    raise UserError(
        f"{known.title} could not be fetched ({'; '.join(failures)}): go online, or put "
        f"{', '.join(FILE_NAMES)} into a folder and name it with data_dir"
    )


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to the cache {folder} ({error.strerror or error}): make room, or set "
        f"NULLCLASS_CACHE to a folder that can be written"
    )


def _install(path: Path, target: Path, md5: str) -> None:
    """Move the contents of a fetched file into the cache, if they are the right ones.

    Goes by the contents, not the name, because some servers gunzip what they send.

    Raises:
        SourceError: If they are not.
    """
    with path.open("rb") as stream:
        gzipped = stream.read(2) == GZIP_MAGIC
    digest = hashlib.new("md5", usedforsecurity=False)
    part = path.with_name(path.name + ".part")
    try:
        _write(part, content_chunks(path, gzipped=gzipped), digest.update)
    except UserError as error:  # of a broken gzip stream; not the user's mistake here
        raise SourceError(f"{target.name} arrived damaged") from error
    if digest.hexdigest() != md5:
        raise SourceError(f"{target.name} arrived with another checksum than {md5}")
    os.replace(part, target)


def _write(path: Path, chunks: Iterable[bytes], also: Callable[[bytes], None]) -> None:
    with path.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            also(chunk)


def _count(names: list[str]) -> str:
    return "1 file" if len(names) == 1 else f"{len(names)} files"
