from __future__ import annotations

import gzip
import math
import os
import struct
import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes, write_idx

from nullclass.core.errors import UserError
from nullclass.data.idx import read_images, read_labels, read_pair

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)
LABELS = np.array([2, 0, 1], dtype=np.uint8)
FULL = idx_bytes(IMAGES)


@pytest.mark.parametrize("end", ["", ".gz"])
@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_images_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, end: str, array: np.ndarray
) -> None:
    path = write_idx(tmp_path_factory.mktemp("idx") / f"images{end}", array)
    np.testing.assert_array_equal(read_images(path), array)


@pytest.mark.parametrize("end", ["", ".gz"])
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_labels_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, end: str, values: list[int]
) -> None:
    path = write_idx(tmp_path_factory.mktemp("idx") / f"labels{end}", np.array(values, np.uint8))
    assert read_labels(path).tolist() == values


@given(cut=st.integers(0, len(FULL) - 1), end=st.sampled_from(["", ".gz"]))
@settings(deadline=None)
def test_no_truncation_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, end: str
) -> None:
    path = tmp_path_factory.mktemp("idx") / f"images{end}"
    path.write_bytes(gzip.compress(FULL[:cut]) if end else FULL[:cut])
    with pytest.raises(UserError, match="fetch"):
        read_images(path)


BAD = {
    "images for labels": (idx_bytes(LABELS), "", "swapped"),
    "trailing": (FULL + b"\0", "", "goes on after the 24 bytes"),
    "trailing in gzip": (gzip.compress(FULL + b"\0"), ".gz", "goes on after the 24 bytes"),
    "not gzip": (FULL, ".gz", "not gzipped"),
    "gzip unnamed": (gzip.compress(FULL), "", "add .gz"),
    "gzip cut": (gzip.compress(FULL)[:-9], ".gz", "broken gzip"),
    "gzip bit rot": (gzip.compress(FULL)[:-8] + b"\1" * 8, ".gz", "broken gzip"),
    "no images": (struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28), "", "holds no images"),
    "no pixels": (struct.pack(">BBBBIII", 0, 0, 8, 3, 9, 0, 28), "", "holds no images"),
    "floats": (struct.pack(">BBBBIII", 0, 0, 13, 3, 1, 1, 1), "", "not unsigned bytes"),
    "four dimensions": (struct.pack(">BBBBIIII", 0, 0, 8, 4, 1, 1, 1, 1), "", "4 dimensions"),
    "html": (b"<!DOCTYPE html>", "", "not an IDX file"),
    "empty": (b"", "", "not an IDX file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_what_to_do(tmp_path: Path, case: str) -> None:
    contents, end, says = BAD[case]
    path = tmp_path / f"images{end}"
    path.write_bytes(contents)
    with pytest.raises(UserError) as caught:
        read_images(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_refuse_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="swapped"):
        read_labels(write_idx(tmp_path / "labels", IMAGES))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_huge_header_allocates_nothing(tmp_path: Path, end: str) -> None:
    contents = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"abc"
    path = tmp_path / f"images{end}"
    path.write_bytes(gzip.compress(contents) if end else contents)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"truncated.*only 3 follow|more than 200 times"):
            read_images(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def bomb(path: Path, shape: tuple[int, ...]) -> Path:
    """A gzipped file of zeros that holds what its header promises, a thousandth of the size."""
    with gzip.open(path, "wb", 1) as file:
        file.write(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape))
        left = math.prod(shape)
        while left:
            left -= file.write(bytes(min(left, 1 << 24)))
    return path


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        ((10**5, 28, 28), (10**4,), "100000 images but .* 10000 labels"),
        ((10**5, 28, 28), (10**5,), "more than 200 times"),
        ((9, 2**16, 2**16), (9,), "more than 200 times"),
        ((9, 2**10, 2**12), (9,), "truncated"),
    ],
)
def test_a_small_file_never_takes_much_memory(
    tmp_path: Path, images: tuple[int, ...], labels: tuple[int, ...], says: str
) -> None:
    image_path, label_path = tmp_path / "images.gz", bomb(tmp_path / "labels.gz", labels)
    if images[0] == 9:  # a header that lies
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, *images)
        image_path.write_bytes(gzip.compress(header + bytes(10**7), 1))
    else:
        bomb(image_path, images)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=says):
            read_pair(image_path, label_path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_images(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UserError, match="is not a regular file"):
            read_images(path)


def test_counts_must_agree(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "images", IMAGES)
    with pytest.raises(UserError, match=r"3 images but .* 2 labels"):
        read_pair(images, write_idx(tmp_path / "labels", LABELS[:2]))
    assert len(read_pair(images, write_idx(tmp_path / "labels", LABELS))[1]) == 3
