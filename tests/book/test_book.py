"""The whole book, built once under the smoke preset: its pages as files."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from tests.book.building import ROOT, Book, executed, run

pytestmark = pytest.mark.book
LOADING = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}


class Tags(HTMLParser):
    """All start tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def toc_files(entry: dict[str, Any]) -> Iterator[str]:
    """All documents that a ``_toc.yml`` names."""
    yield from (entry[key] for key in ("root", "file") if key in entry)
    for key in ("parts", "chapters", "sections"):
        for child in entry.get(key, []):
            yield from toc_files(child)


def pages(book: Book) -> list[Path]:
    return sorted(path for path in book.html.rglob("*.html") if "_static" not in path.parts)


def test_build_says_nothing_is_wrong(book: Book) -> None:
    assert executed(book.outcome.text) == [path.stem for path in sorted((ROOT / "notebooks").glob("*.py"))]
    complaint = re.compile(r"WARNING|ERROR|(?<!AbsentClass)Warning:|Traceback")
    lines = book.outcome.text.splitlines()
    found = [number for number, line in enumerate(lines) if complaint.search(line)]
    assert not found, "\n".join(lines[max(0, found[0] - 5) : found[0] + 40])


def test_every_page_of_the_contents_is_there(book: Book) -> None:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    documents = list(toc_files(toc))
    assert "intro" in documents and len(documents) > 5
    for document in documents:
        assert (book.html / f"{document}.html").is_file(), document


def test_every_public_module_is_on_an_api_page(book: Book) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (book.html / "api").glob("*.html"))
    paths = [path for path in (ROOT / "migcore").rglob("*.py") if not path.name.startswith("_")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    assert sorted(module for module in modules if f'id="module-{module}"' not in text) == []


def test_types_on_api_pages_are_types(book: Book) -> None:
    """Napoleon reads "words: more" as a type and a text; a type is an expression of Python."""
    types, wrong = 0, []
    for page in (book.html / "api").glob("*.html"):
        for term in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find_all("dt"):
            if term.get_text().strip().rstrip(":") not in ("Type", "Return type"):
                continue
            text = term.find_next_sibling("dd").get_text().strip()
            types += 1
            try:
                ast.parse(re.sub("[‘’]", "'", text.replace("…", "...")), mode="eval")
            except SyntaxError:
                wrong.append((page.name, text))
    assert types > 50 and wrong == []


def test_no_page_loads_anything_from_elsewhere(book: Book) -> None:
    for page in pages(book):
        for tag, attributes in Tags(page.read_text(encoding="utf-8")).found:
            address = attributes.get(LOADING.get(tag, "")) or ""
            assert not address.startswith(("http:", "https:", "//")), f"{page.name}: {tag} {address}"
    for style in (book.html / "_static").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_pictures_say_what_they_show(book: Book) -> None:
    for page in pages(book):
        for tag, attributes in Tags(page.read_text(encoding="utf-8")).found:
            if tag == "img":
                alt = attributes.get("alt") or ""
                assert alt and "/" not in alt, f"{page.name}: {(attributes.get('src') or '')[:60]}"


def test_no_path_of_this_machine_is_handed_out(book: Book) -> None:
    places = {str(book.root), str(ROOT), str(Path.home()), sys.prefix}
    handed = [*(book.html / "_sources").rglob("*"), *pages(book)]
    assert any(path.suffix == ".ipynb" for path in handed)
    for path in handed:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [place for place in places if f"{place}/" in text], path.name


def test_downloaded_chapters_are_valid_and_say_how_they_were_made(book: Book) -> None:
    for source in (ROOT / "notebooks").glob("*.py"):
        notebook = nbformat.read(book.html / "_sources" / "notebooks" / f"{source.stem}.ipynb", as_version=4)
        nbformat.validate(notebook)
        facts = notebook.metadata.paperbook
        assert facts.preset == "smoke" and facts.seconds > 0 and facts.device
        page = (book.html / "notebooks" / f"{source.stem}.html").read_text(encoding="utf-8")
        assert "preset <strong>smoke</strong>" in page and f"{facts.seconds:.0f} s" in page


def test_without_an_address_no_button_needs_one(book: Book) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    page = (book.html / "notebooks" / "01_problem.html").read_text(encoding="utf-8")
    wanted = bool(config["repository"]["url"])
    assert ("colab.research.google.com" in page) is wanted
    assert ("mybinder.org" in page) is wanted
    assert ("source-edit-button" in page) is wanted


def test_an_unchanged_book_runs_nothing(book: Book) -> None:
    again = run("make book", book.root, BOOK_FLAGS="-W --keep-going")
    assert again.status == 0 and executed(again.text) == [], again.text[-2000:]
