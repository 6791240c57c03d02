"""Loads datasets: a known name, a folder, a file, or what a function returns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nullclass.core.checks import check_count, check_path, shown
from nullclass.core.errors import UserError
from nullclass.core.imports import is_function_name
from nullclass.data import array_files, idx, returned
from nullclass.data.array_files import Part
from nullclass.data.arrays import LabelledImages, checked_labels, stored_images
from nullclass.data.dataset import Dataset
from nullclass.data.fetching import Progress, close_name, fetch, find_known, print_line
from nullclass.data.known import DATASETS, RAMPS, known_names, unread_form
from nullclass.data.ramps import CLASS_NAMES as RAMP_NAMES
from nullclass.data.ramps import ramps
from nullclass.data.streamed import Images, StreamedImages

IDX_SUBFOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw")
"""Where IDX files may lie inside a folder of the user, in the order to look."""

MAX_SIDE = 2**15
"""Largest height and width to scale images to."""


def load_dataset(
    data: str | Path,
    *,
    validation: int = 5000,
    resize: int | Sequence[int] | None = None,
    progress: Progress = print_line,
) -> Dataset:
    """Load images with labels (``docs/data.md``).

    Args:
        data: A known name, such as ``"mnist"``: the files come from the cache, which is filled
            first if needed (:func:`nullclass.data.fetch`). A folder: the files of a known dataset,
            which are recognised by their checksums, four IDX files, or an image folder
            ``train/CLASS/*.png`` and ``test/CLASS/*.png``. A file ``.npz`` or ``.safetensors``. Or
            ``PACKAGE.MODULE:FUNCTION``, which is imported and called.
        validation: Number of training images to hold out: chosen at random, always the same.
        resize: Side, or height and width, of the images of an image folder: each is scaled to cover
            that size, and cropped in its centre.
        progress: Receives one line whenever there is something to wait for.

    Returns:
        The dataset. Its name is the known one, or that of the folder, file or function. Image
        folders and byte images in ``.safetensors`` are read when they are needed; images of at most
        256 MiB then stay in memory.

    Raises:
        UserError: If the data cannot be found, a file is bad, the files do not fit together, the
            labels do not start at 0, or ``validation`` leaves nothing to train on.
    """
    if not isinstance(data, str | Path):
        raise UserError(f"there are no data {shown(data)}: give a name, a folder or a file")
    size = None if resize is None else _size(resize)
    dataset, is_resized = _load(data, size, progress)
    if size is not None and not is_resized:
        raise UserError(f"only image folders are resized, and {dataset.name} is none")
    return dataset.hold_out(validation)


def _load(
    data: str | Path, size: tuple[int, int] | None, progress: Progress
) -> tuple[Dataset, bool]:
    """Return a dataset, and whether its images have the size."""
    name = str(data)
    if name == RAMPS:
        train, test, checksum = ramps()
        source = "ramps of three pixels, drawn from a fixed seed"
        # Their pixels are left as they are.
        published = ((0.0,), (1.0,))
        return Dataset(RAMPS, RAMP_NAMES, train, None, test, checksum, source, published), False
    if name in DATASETS:
        paths, source = fetch(name, progress)
        return _known(name, paths, source), False
    path = check_path("data", data)
    if is_function_name(name) and not os.path.exists(path):
        training, testing, num_classes = returned.call(name)
        return _dataset(name, training, testing, f"what {name} returns", num_classes), False
    if not os.path.exists(path):
        raise UserError(
            f"there is no dataset, folder or file {shown(name)}{close_name(name, known_names())}, "
            "or give a folder, a file or PACKAGE.MODULE:FUNCTION"
        )
    known = find_known(path)
    if known is not None:
        name, paths = known
        return _known(name, paths, f"{DATASETS[name].title} from {path}, checksums verified"), False
    if os.path.isdir(path):
        if any(idx.find_files(path / subfolder) for subfolder in IDX_SUBFOLDERS):
            return _idx_folder(path), False
        return _image_folder(path, size), True
    return _array_file(path), False


def _known(name: str, paths: dict[str, Path], source: str) -> Dataset:
    """Return a known dataset."""
    known = DATASETS[name]
    return _of_arrays(name, known.class_names, known.read(paths), source, known.pixel_statistics)


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
    name = _name_of(folder, "IDX files")
    names = _numbered(name, [torch.from_numpy(labels) for labels in arrays[1::2]])
    return _of_arrays(name, names, arrays, f"four IDX files in the folder {folder}")


def _of_arrays(
    name: str,
    class_names: tuple[str, ...],
    arrays: idx.Arrays,
    source: str,
    published: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    images, labels, test_images, test_labels = map(torch.from_numpy, arrays)
    num_classes = len(class_names)
    train = LabelledImages(images, labels.long(), num_classes)
    test = LabelledImages(test_images, test_labels.long(), num_classes)
    checksum = idx.checksum(arrays)
    return Dataset(name, class_names, train, None, test, checksum, source, published)


def _image_folder(folder: Path, size: tuple[int, int] | None) -> Dataset:
    from nullclass.data.image_folder import ImageFolder  # imports Pillow

    try:
        files = ImageFolder(folder)
    except UserError as error:
        raise UserError(unread_form(folder) or str(error)) from None
    train = None if files.train is None else files.read(files.train, size)
    test = files.read(files.test, size)
    name = _name_of(folder, "image folder")
    source = f"images in the folder {folder}"
    return _dataset(name, train, test, source, class_names=files.class_names)


def _array_file(path: Path) -> Dataset:
    readers = {".npz": array_files.read_npz, ".safetensors": array_files.read_safetensors}
    if path.suffix not in readers:
        raise UserError(
            unread_form(path)
            or f"{path} is not a folder, nor a file .npz or .safetensors, nor one of a known "
            "dataset: unpack archives and give the folder"
        )
    return _dataset(_name_of(path, "file"), *readers[path.suffix](path), f"the file {path}")


def _dataset(
    name: str,
    train: Part | None,
    test: Part,
    source: str,
    num_classes: int = 0,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """Return data of the user; the images and labels are checked, and bytes recognised.

    Without names the classes are numbered; there are ``num_classes``, or more if labels say so.
    """
    parts = [(_stored(images), _flat(labels)) for images, labels in (test, train or test)]
    if class_names is None:
        class_names = _numbered(name, [labels for _, labels in parts], num_classes)
    last, first = (LabelledImages(*part, len(class_names)) for part in parts)
    if last.images.shape[1:] != first.images.shape[1:]:
        sizes = [" x ".join(map(str, part.images.shape[1:])) for part in (first, last)]
        raise UserError(
            f"training images of {name} are {sizes[0]}, but test images {sizes[1]}: make them alike"
        )
    trained = None if train is None else first
    digests = [part.sha256() for part in (trained, last) if part is not None]
    checksum = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Dataset(name, class_names, trained, None, last, checksum, source)


def _numbered(name: str, labels: Sequence[Tensor], num_classes: int = 0) -> tuple[str, ...]:
    """Return a name for each class of whole-number labels, which start at 0."""
    everything = torch.cat(list(labels))
    if not len(everything):
        raise UserError(f"there are no images in {name}: give at least one")
    low, high = int(everything.min()), int(everything.max())
    if low > 0 and not num_classes:
        raise UserError(
            f"the labels of {name} run from {low} to {high}, and classes are numbered from 0, as 0 "
            "… K - 1: if these are, add an image of class 0, else number them anew"
        )
    num_classes = max(high + 1, num_classes)
    if num_classes < 2:
        raise UserError(f"all labels of {name} are {high}: give at least two classes")
    return tuple(map(str, range(num_classes)))


def _stored(images: Images) -> Images:
    """Return images to store; floats that are whole numbers up to 255 are bytes."""
    if isinstance(images, StreamedImages):
        return images
    if images.layout != torch.strided or images.is_quantized or images.is_meta:
        raise UserError("the images are a sparse, quantised or meta tensor: make it a dense one")
    if images.dtype.itemsize == 1 and images.is_floating_point():
        images = images.float()
    if images.is_floating_point() and images.numel() and 1 < images.max() <= 255:
        is_bytes = images.min() >= 0 and bool((images == images.round()).all())
        images = images.to(torch.uint8) if is_bytes else images
    return stored_images(images)


def _flat(labels: Tensor) -> Tensor:
    """Return labels ``(N,)``, also of ``(N, 1)``."""
    labels = checked_labels(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels.flatten()
    if labels.ndim != 1:
        raise UserError(f"labels have the shape {tuple(labels.shape)}: pass one number per image")
    return labels


def _name_of(path: Path, kind: str) -> str:
    """Return the name of the user's data: the last part of the path, never a known name."""
    name = os.path.basename(os.path.abspath(path)) or kind
    return f"{name} ({kind})" if name in known_names() else name


def _size(resize: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width."""
    sides = (resize,) if not isinstance(resize, Sequence) else tuple(resize)
    if len(sides) not in (1, 2):
        raise UserError(f"resize must be a side, or height and width, not {shown(resize)}")
    height, width = (check_count("resize", sides[i], 1, MAX_SIDE) for i in (0, -1))
    return height, width
