"""CITATION.cff: valid, and of one mind with the package, the book's page and the changelog."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((ROOT / "tests" / "citation_schema.json").read_text(encoding="utf-8"))
"""The Citation File Format's own schema, version 1.2.0 (CC BY 4.0)."""


@pytest.fixture
def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def test_it_is_valid(citation: dict[str, Any]) -> None:
    check = jsonschema.Draft7Validator(SCHEMA)
    assert list(check.iter_errors(citation)) == []
    assert list(check.iter_errors({**citation, "licence": "MIT"})), "the schema refuses what it does not know"


def test_it_says_what_the_package_says(citation: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"({project['version']})" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    page = (ROOT / "book" / "cite.md").read_text(encoding="utf-8")
    entry = dict(re.findall(r"(\w+) += \{(.+)\},?\n", page.partition("@software")[2]))
    assert entry["version"] == project["version"] and entry["license"] == project["license"]
    assert entry["title"].replace("{", "").replace("}", "") == citation["title"]


def test_the_paper_is_cited_alike_everywhere(citation: dict[str, Any]) -> None:
    (paper,) = citation["references"]
    for name in ("book/cite.md", "book/references.bib"):
        text = (ROOT / name).read_text(encoding="utf-8")
        entry = text.partition("{wang2024multimodal,")[2].partition("\n}")[0]
        assert re.sub(r"[{}]", "", re.findall(r"title +=\s+\{(.+)\},", entry)[0]) == paper["title"], name
        assert f"{paper['year']}" in entry and all(a["family-names"] in entry for a in paper["authors"]), name
