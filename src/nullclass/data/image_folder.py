"""Image folders: one folder per class.

``FOLDER/train/CLASS/…`` and ``FOLDER/test/CLASS/…`` (or ``val``, as ImageNet has it), or
``FOLDER/CLASS/…`` for test images alone. The classes are numbered in the order of their names, and
their images are read in turns, so that the first images are of all classes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nullclass.core.errors import UserError
from nullclass.core.paths import read_bytes
from nullclass.data.idx import Bytes
from nullclass.data.streamed import StreamedImages, remembering

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of the names of image files, in lower case; other files are ignored."""

_GREY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_LIMIT = 2**30
"""Most bytes of an image file."""

Size = tuple[int, int]
"""Height and width."""


class ImageFolder:
    """An image folder, whose files are not yet read.

    Args:
        folder: The folder.

    Raises:
        UserError: If there are no class folders, fewer than two, or a class without images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        parts = {
            name: folder / name for name in ("train", "test", "val") if _is_split(folder, name)
        }
        self.test = parts.get("test") or parts.get("val") or folder
        self.train = parts.get("train")
        if self.train is not None and self.test == folder:
            raise UserError(f"{folder} has train/CLASS/ but no test/CLASS/: add test images")
        self.class_names = tuple(_folders(self.train or self.test))
        if len(self.class_names) < 2:
            raise UserError(
                f"{self.train or self.test} has {len(self.class_names)} class folders, and no IDX "
                "files: make a folder of images for each class, at least two"
            )
        unknown = set(_folders(self.test)) - {*self.class_names}
        if unknown:
            raise UserError(f"{self.test} has the class {min(unknown)}, which is not in train/")

    def read(self, part: Path, size: Size | None) -> tuple[StreamedImages, Tensor]:
        """Return the images of ``train`` or ``test`` and their labels; check every file's header.

        Args:
            part: ``self.train`` or ``self.test``.
            size: Height and width that each image is scaled to cover, and cropped to in its centre;
                None keeps the size of the files.

        Raises:
            UserError: If a class has no images, a file is broken or has more than 8 bits per
                channel, or the sizes differ and ``size`` is None.
        """
        names: list[str] = []  # relative to the part: a path takes several times the memory
        labels: list[int] = []
        of_classes = [list(_files(part, name)) for name in self.class_names]
        for name, files in zip(self.class_names, of_classes, strict=True):
            if not files and (part / name).is_dir():
                raise UserError(f"{part / name} holds no images: add some or remove the folder")
        for in_turn in zip_longest(*of_classes):
            for label, file in enumerate(in_turn):
                if file is not None:
                    names.append(file)
                    labels.append(label)
        digest, is_coloured, found = hashlib.sha256(), False, None
        for name in names:
            path = part / name
            content = read_bytes(path, "image", _LIMIT)
            digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
            image = _open(path, content)
            is_coloured |= image.mode not in _GREY
            found = found or (image.height, image.width)
            if size is None and found != (image.height, image.width):
                raise UserError(
                    f"the images differ in size ({names[0]} has {found[0]} x {found[1]}, {name} "
                    f"{image.height} x {image.width}): give the size to scale them to (--resize)"
                )
        height, width = size or found or (0, 0)
        mode = "RGB" if is_coloured else "L"
        digest.update(f"{mode} {size}".encode())

        def read(position: int) -> Bytes:
            path = part / names[position]
            return _decode(path, read_bytes(path, "image", _LIMIT), mode, (height, width))

        shape = (3 if is_coloured else 1, height, width)
        read_once = remembering(read, (len(names), *shape))
        positions = torch.arange(len(names))
        images = StreamedImages(read_once, shape, positions, digest.hexdigest())
        return images, torch.tensor(labels, dtype=torch.int64)


def _is_split(folder: Path, name: str) -> bool:
    return os.path.isdir(folder / name) and bool(_folders(folder / name))


def _folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from None


def _files(part: Path, name: str) -> Iterator[str]:
    """Yield the image files below a folder of a part, relative to the part, in order."""
    for parent, folders, files in os.walk(part / name):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, part)
        for file in sorted(files):
            if file.lower().endswith(ENDINGS) and not file.startswith("."):
                yield f"{inside}/{file}"


def _open(path: Path, content: bytes) -> Image.Image:
    """Return an image of which only the header is read."""
    try:
        image = Image.open(BytesIO(content))
    except Exception as error:  # Pillow raises all kinds for a damaged file
        raise UserError(f"{path} is no image, or broken: replace or remove it") from error
    if image.mode in _DEEP:
        raise UserError(f"{path} has more than 8 bits per channel: convert it to 8 bits")
    return image


def _decode(path: Path, content: bytes, mode: str, size: Size) -> Bytes:
    """Return an image ``(C, H, W)`` of mode ``L`` or ``RGB``, scaled and cropped if need be."""
    image = _open(path, content)
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] != 255:
                raise UserError(f"{path} has transparent pixels: put it on a background")
        image = image.convert(mode)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is broken: replace or remove it") from error
    if (image.height, image.width) != size:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
