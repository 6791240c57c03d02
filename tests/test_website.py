"""The documentation site: built offline without a warning, every link leads somewhere."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import nullclass

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def website() -> ModuleType:
    spec = importlib.util.spec_from_file_location("website", ROOT / "docs" / "website.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["website"] = module
    spec.loader.exec_module(module)
    return module


class Page(HTMLParser):
    """The links, addresses of files, and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag in ("script", "img") and "src" in values:
            self.loaded.add(values["src"])
        if tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.add(values["href"])


@pytest.fixture(scope="module")
def site(website: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew; a warning would be an error."""
    folder = tmp_path_factory.mktemp("docs")
    assert website.build(folder) == 0
    return folder / "site"


@pytest.mark.slow
def test_the_site(website: ModuleType, site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 100
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links | page.loaded):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data", "javascript"):
                if link in page.loaded and parts.scheme != "data":
                    broken.append(f"{path.name} loads {link[:80]}")
                continue
            if path.name == "404.html":
                continue  # served from any folder
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages:
                anchor = unquote(parts.fragment)
                if anchor not in pages[target].anchors and not anchor.startswith("__"):
                    broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    for name in website.public_names():
        text = (site / "names" / f"{name}.html").read_text(encoding="utf-8")
        assert 'class="doc doc-' in text, name
    assert "nullclass.Classifier" in (site / "names" / "Classifier.html").read_text()
    assert ":class:" not in (site / "names" / "Classifier.html").read_text()
    assert set(nullclass.__all__) >= {"Guard", "export_model"}
    figure = "results/null-samples/figures/fig_scores_at_threshold.png"
    assert figure in Page(site / "null-samples.html").loaded


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is here")
@pytest.mark.parametrize("width", [390, 1200])
def test_search_works_from_files(site: Path, width: int) -> None:
    """The site is opened as a file, without a server or a network."""
    sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    problems: list[str] = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.set_default_timeout(60_000)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        tab.goto((site / "attacks.html").as_uri())
        if width < 960:
            tab.locator("label[for=__search]").first.click()
        tab.get_by_role("textbox", name="Search").press_sequentially("conformal threshold")
        found = tab.locator(".md-search-result__link").first
        found.wait_for()
        assert (found.get_attribute("href") or "").startswith("file:")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert problems == []
