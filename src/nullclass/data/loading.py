"""Loads datasets: a known name, a folder, or a file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from nullclass.core.checks import check_path, shown
from nullclass.core.errors import UserError
from nullclass.data import idx
from nullclass.data.arrays import LabelledImages
from nullclass.data.dataset import Dataset
from nullclass.data.fetching import Progress, close_name, fetch, find_known, print_line
from nullclass.data.idx import Arrays
from nullclass.data.known import DATASETS, RAMPS, known_names
from nullclass.data.ramps import CLASS_NAMES as RAMP_NAMES
from nullclass.data.ramps import ramps

IDX_SUBFOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw")
"""Where IDX files may lie inside a folder of the user, in the order to look."""


def load_dataset(
    data: str | Path,
    *,
    validation: int = 5000,
    seed: int = 0,
    progress: Progress = print_line,
) -> Dataset:
    """Load images with labels.

    Args:
        data: ``"mnist"`` or another known name (``docs/data.md``): the files come from the cache,
            which is filled first if needed (:func:`nullclass.data.fetch`). Or a folder: four IDX
            files, or the files of a known dataset, which are recognised by their checksums.
        validation: Number of training images to hold out.
        seed: Seed of the choice of held-out images.
        progress: Receives one line whenever there is something to wait for.

    Returns:
        The dataset. Its name is the known one, or that of the folder or file.

    Raises:
        UserError: If the files cannot be found, a file is bad, the files do not fit together, or
            ``validation`` leaves nothing to train on.
    """
    return _load(data, progress).hold_out(validation, seed)


def _load(data: str | Path, progress: Progress) -> Dataset:
    if not isinstance(data, str | Path):
        raise UserError(f"there are no data {shown(data)}: give a name, a folder or a file")
    if data == RAMPS:
        train, test, checksum = ramps()
        source = "ramps of three pixels, drawn from a fixed seed"
        # Their pixels are left as they are.
        published = ((0.0,), (1.0,))
        return Dataset(RAMPS, RAMP_NAMES, train, None, test, checksum, source, published)
    if data in DATASETS:
        paths, source = fetch(str(data), progress)
        return _known(str(data), paths, source)
    path = check_path("data", data)
    if not os.path.exists(path):
        name = str(data)
        raise UserError(
            f"there is no dataset, folder or file {shown(name)}{close_name(name)}, or give a folder"
        )
    known = find_known(path)
    if known is not None:
        name, paths = known
        return _known(name, paths, f"{DATASETS[name].title} from {path}, checksums verified")
    if os.path.isdir(path):
        return _idx_folder(path)
    raise UserError(f"{path} is not a folder, nor a file of a known dataset: give a folder")


def _known(name: str, paths: dict[str, Path], source: str) -> Dataset:
    known = DATASETS[name]
    arrays = known.read(paths)
    return _from_arrays(name, known.class_names, arrays, source, known.pixel_statistics)


def _idx_folder(folder: Path) -> Dataset:
    """Return any four IDX files."""
    # The first complete subfolder; else the fullest, to say what is missing.
    paths = max((idx.find_files(folder / subfolder) for subfolder in IDX_SUBFOLDERS), key=len)
    missing = [name for name in idx.FILE_NAMES if name not in paths]
    if missing:
        raise UserError(
            f"the folder {folder} lacks {', '.join(missing)}: add the file (.gz or not), or give "
            "the name of a known dataset, to fetch it"
        )
    arrays = idx.read_files(paths)
    num_classes = int(max(arrays[1].max(), arrays[3].max())) + 1
    if num_classes < 2:
        raise UserError(f"all labels in {paths[idx.TRAIN_LABELS]} are 0: give at least two classes")
    names = tuple(map(str, range(num_classes)))
    name = _name_of(folder, "IDX files")
    return _from_arrays(name, names, arrays, f"four IDX files in the folder {folder}")


def _name_of(path: Path, kind: str) -> str:
    """Return the name of the user's data: the last part of the path, never a known name."""
    name = os.path.basename(os.path.abspath(path)) or kind
    return f"{name} ({kind})" if name in known_names() else name


def _from_arrays(
    name: str,
    class_names: tuple[str, ...],
    arrays: Arrays,
    source: str,
    published: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    images, labels, test_images, test_labels = map(torch.from_numpy, arrays)
    num_classes = len(class_names)
    train = LabelledImages(images, labels.long(), num_classes)
    test = LabelledImages(test_images, test_labels.long(), num_classes)
    checksum = idx.checksum(arrays)
    return Dataset(name, class_names, train, None, test, checksum, source, published)
