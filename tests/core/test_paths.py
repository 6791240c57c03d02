from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullclass.core.errors import UserError
from nullclass.core.paths import NAME_LENGTH, file_name, inside, open_regular, read_bytes


@given(st.text(), st.text())
def test_file_names_are_safe_and_distinct(one: str, other: str) -> None:
    name = file_name(one)
    assert 0 < len(name.encode()) <= NAME_LENGTH
    assert not name.startswith(".")
    assert not set(name) & set('/\\\0:*?"<>| \n')
    assert file_name(name) == name
    if file_name(other) != other:
        assert (file_name(other) == name) == (one == other)


def test_plain_names_stay() -> None:
    for name in ("null-0.5", "worst-case", "seed3", "a_b+c=d", "x" * NAME_LENGTH):
        assert file_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a\0b", "a/", ".lock", "ε"]
)
def test_a_path_stays_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not the name of a file in"):
        inside(tmp_path, name)


def test_a_path_inside_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    assert inside(tmp_path, "trials/x") == tmp_path / "trials" / "x"
    (tmp_path / "models").symlink_to("/")
    with pytest.raises(UserError, match="symbolic link"):
        inside(tmp_path, "models/x")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="is not a regular file"):
            open_regular(path, "model card")
    for path in (tmp_path / "missing", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(UserError, match="model card"):
            open_regular(path, "model card")
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", "test", 5) == b"12345"
    with pytest.raises(UserError, match="over 4 bytes"):
        read_bytes(tmp_path / "x", "test", 4)
