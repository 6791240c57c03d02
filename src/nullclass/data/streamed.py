"""Images that stay on the disk until they are needed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nullclass.core.process import trim_memory
from nullclass.data.idx import Bytes

IN_MEMORY = 2**28
"""Images of at most so many bytes stay in memory once they are read; more are read every time."""

LARGE = 2**22
"""Bytes of a batch before which memory that is free is returned to the system."""


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Byte images ``(N, C, H, W)`` on the disk; an index reads those images only.

    It has the few attributes of a tensor that :class:`nullclass.data.LabelledImages` needs.
    """

    read: Callable[[int], Bytes]
    """Returns the image ``(C, H, W)`` at a position of the files."""
    image_shape: tuple[int, int, int]
    positions: Tensor
    """``(N,)`` int64: the images' positions in the files."""
    digest: str
    """SHA-256 of all that ``read`` depends on."""

    dtype: ClassVar[torch.dtype] = torch.uint8
    device: ClassVar[torch.device] = torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        """``(N, C, H, W)``."""
        return torch.Size((len(self), *self.image_shape))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return images in memory, ``(B, C, H, W)`` uint8."""
        positions = self.positions[index].tolist()
        shape = (len(positions), *self.image_shape)
        if math.prod(shape) > LARGE:
            trim_memory()  # else the heap keeps parts of the earlier batches, and grows with N
        images = torch.empty(shape, dtype=torch.uint8)
        pixels = images.numpy()
        for number, position in enumerate(positions):
            pixels[number] = self.read(position)
        return images

    def subset(self, index: Tensor | slice) -> StreamedImages:
        """Return some of the images, without reading them."""
        return replace(self, positions=self.positions[index])

    def sha256(self) -> str:
        """Return a checksum of the images and their order, without reading them."""
        text = f"{self.digest} {self.image_shape}"
        return hashlib.sha256(text.encode() + self.positions.numpy().tobytes()).hexdigest()


Images = Tensor | StreamedImages
"""Images in memory, or on the disk."""


def remembering(read: Callable[[int], Bytes], shape: tuple[int, ...]) -> Callable[[int], Bytes]:
    """Return a function that reads each image once, if all ``(N, C, H, W)`` fit into memory."""
    if math.prod(shape) > IN_MEMORY:
        return read
    # Memory is taken page by page, when it is written.
    pixels, is_read = np.empty(shape, np.uint8), np.zeros(shape[0], bool)

    def read_once(position: int) -> Bytes:
        if not is_read[position]:
            pixels[position] = read(position)
            is_read[position] = True
        return pixels[position]  # type: ignore[no-any-return]

    return read_once
