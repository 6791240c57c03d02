"""Changes pages of the site while MkDocs builds it: roles of docstrings become plain code."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":\w+:(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Remove the roles of Sphinx, which Markdown shows as text."""
    return ROLE.sub("", html)
