"""Documents edited on purpose, with the checksum that belongs to the edit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def edit_document(path: Path, **changed: object) -> None:
    """Write a document with other values of its fields."""
    values = json.loads(path.read_text()) | changed | {"checksum": ""}
    text = json.dumps(values, indent=2)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(text.replace('"checksum": ""', f'"checksum": "{checksum}"', 1))
