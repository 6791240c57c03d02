from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nullclass.core.documents import (
    DEPTH,
    Document,
    Int64,
    Schema,
    encode,
    parse,
    read_document,
    write_document,
)
from nullclass.core.errors import UserError


class Part(Schema, frozen=True):
    name: str
    size: float | None = None


class Card(Document, frozen=True):
    title: str
    count: Int64 = 0
    parts: list[Part] = msgspec.field(default_factory=list)
    settings: dict[str, Any] = msgspec.field(default_factory=dict)


CARD = Card(title='ε\n"quoted" {[', count=-3, parts=[Part(name="a", size=0.1)], settings={"x": [1]})


def test_a_document_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_document(path, CARD)
    found = read_document(path, Card, "card")
    assert msgspec.structs.replace(found, checksum="") == CARD
    write_document(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    content = encode(CARD)
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"card\.json"):
            read_document(path, Card, "card")


@pytest.mark.parametrize(
    "text",
    [
        '{"title": 1}',
        '{"count": 1}',
        '{"title": "a", "more": 1}',
        '{"title": "a", "count": 1.5}',
        '{"title": "a", "count": 9223372036854775808}',
        '{"title": "a", "parts": [{"name": "b", "size": NaN}]}',
        '{"title": "a", "parts": [{"name": "b", "size": 1e999}]}',
        '{"title": "\\ud800"}',
        '{"title": "a", "settings": {"x": ' + "[" * DEPTH + "]" * DEPTH + "}}",
        "[" * 100_000,
        "[]",
        "",
        "\ufeff{}",
        "\udcff",
    ],
)
def test_other_structures_are_refused(text: str) -> None:
    content = text.encode(errors="surrogateescape")
    with pytest.raises(UserError, match=r"^the card is (damaged|nested)"):
        parse(content, Card, "the card")


def test_what_json_cannot_hold() -> None:
    assert parse(encode(Card(title="a", settings={"x": math.nan})), Card, "card").settings == {
        "x": None
    }
    for value in (object(), "\ud800", {1j: 2}):
        with pytest.raises(UserError, match="JSON values"):
            encode(Card(title="a", settings={"x": value}))
