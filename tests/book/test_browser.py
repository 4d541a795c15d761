"""The whole book in a browser, opened from files: nothing asked of another machine, nothing complained of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tests.book.browser import Browser
from tests.book.building import Book

pytestmark = pytest.mark.book
RENDERED = "![...document.querySelectorAll('.math')].some(e => !e.querySelector('mjx-container'))"
FAINT = """
(() => {
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const e of document.querySelectorAll('.bd-article :is(p, td, th, li, .provenance, figcaption, caption, h2)')) {
    if (!e.innerText.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(e.tagName + ' ' + contrast.toFixed(1) + ': ' + e.innerText.slice(0, 40));
  }
  return faint;
})()
"""


AXE = (Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8")  # axe-core 4.14.1, MPL 2.0
WHAT_AXE_FINDS = """
axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
  .filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ')))
"""


TOO_WIDE = """
[...document.querySelectorAll('.bd-article *')].filter(e => e.getBoundingClientRect().right > 361)
  .filter(e => { for (let p = e.parentElement; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== 'visible') return false; return true; })
  .slice(0, 5).map(e => e.tagName + '.' + e.className + ' ' + e.innerText.slice(0, 40))
"""
FOCUSED = """
(() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  e.dataset.number = e.dataset.number || String(document.querySelectorAll('[data-number]').length);
  const s = getComputedStyle(e), drawn = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0;
  return {id: e.dataset.number, tag: e.tagName, text: (e.innerText || e.ariaLabel || '').slice(0, 40),
          marked: drawn || s.boxShadow !== 'none' || s.textDecorationLine !== 'none'};
})()
"""
UPRIGHT, SIDEWAYS = 680, 1009  # pixels between the margins of A4: 18 and 26.7 cm
CUT_OFF = """
[...document.querySelectorAll('.bd-main *')].filter(e => e.checkVisibility() && (
    e.getBoundingClientRect().right > innerWidth + 1 ||  // .math holds what screen readers say, which is wider
    getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1 && !e.matches('.math')))
  .slice(0, 5).map(e => e.tagName + '.' + e.className + ' ' + (e.innerText || '').slice(0, 40))
"""
NOT_FOR_PAPER = """
[...document.querySelectorAll(`header, footer, dialog, .bd-header, .bd-header-article, .bd-sidebar-primary,
    .bd-sidebar-secondary, .prev-next-footer, button, input, select, summary, .headerlink, .viewcode-link,
    .viewcode-back`)].filter(e => e.checkVisibility()).map(e => e.tagName + '.' + e.className).slice(0, 5)
"""
TITLES = """
(found => found.length === 1 ? [] : [found.length + ' titles', ...found])([...document.querySelectorAll('.bd-main h1')]
  .filter(e => e.checkVisibility()).map(e => e.innerText.trim()).filter(Boolean))
"""
NOT_WHITE = """
[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.documentElement).colorScheme]
  .filter(e => !['rgb(255, 255, 255)', 'light'].includes(e))
"""
ON_PAPER = {"cut off": CUT_OFF, "shown": NOT_FOR_PAPER, "titles": TITLES, "not white": NOT_WHITE, "faint": FAINT}
BREAKS = {
    **dict.fromkeys(("figure", "tr", ".admonition", ".cell_input", "table:not(:has(tr:nth-child(9)))"), "breakInside"),
    **dict.fromkeys(("h2", "caption", ".admonition-title"), "breakAfter"),
}
NO_BACKGROUNDS = """
document.head.insertAdjacentHTML('beforeend', '<style>*, ::before, ::after { background: none !important }</style>')
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("light")) as opened:
        yield opened


def documents(book: Book) -> list[Path]:
    """All pages, and one of the many that show a module's source: those are alike."""
    found = sorted(
        [*book.html.glob("*.html"), *(p for d in ("api", "notebooks") for p in (book.html / d).glob("*.html"))]
    )
    found.remove(book.html / "index.html")  # only leads to intro.html
    assert len(found) > 8
    return [*found, book.html / "_modules" / "migcore" / "labels.html"]


def test_every_page_opens_quietly(book: Book, browser: Browser) -> None:
    for page in documents(book):
        browser.open(page.as_uri())
        assert browser.errors == [], page.name
        assert browser.foreign() == [], page.name
        assert browser.requests, page.name


def test_every_link_leads_somewhere(book: Book) -> None:
    """Pages, anchors and files that pages name are there; other sites are not asked."""
    parsed = {
        page.resolve(): BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser") for page in documents(book)
    }
    names: dict[Path, set[str]] = {}

    def anchors(page: Path) -> set[str]:
        if page not in names:
            soup = parsed.get(page) or BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
            names[page] = {str(tag[key]) for key in ("id", "name") for tag in soup.find_all(attrs={key: True})}
        return names[page]

    broken, checked = [], 0
    for page, soup in parsed.items():
        for link in {str(tag.get("href") or tag.get("src")) for tag in soup.select("a[href], img[src], link[href]")}:
            where = urlsplit(link)
            if where.scheme:
                continue
            target = (page.parent / unquote(where.path)).resolve() if where.path else page
            checked += 1
            if not target.is_file():
                broken.append(f"{page.name}: {link}")
            elif where.fragment and target.suffix == ".html" and unquote(where.fragment) not in anchors(target):
                broken.append(f"{page.name}: {link} (no such place)")
    assert broken == [] and checked > 500


def test_no_page_has_a_serious_accessibility_problem(book: Book, browser: Browser) -> None:
    found = {}
    for page in documents(book):
        browser.open(page.as_uri())
        browser.evaluate(f"{AXE}; true")
        problems = browser.evaluate(WHAT_AXE_FINDS)
        if problems:
            found[page.name] = problems
    assert found == {}


def test_pages_fit_a_phone(book: Book, tmp_path: Path) -> None:
    """Nothing is wider than 360 pixels unless it scrolls in a box of its own."""
    with Browser(tmp_path / "profile", width=360, height=740) as browser:
        wide = {}
        for page in documents(book):
            browser.open(page.as_uri())
            if browser.evaluate("document.documentElement.scrollWidth > 360"):
                wide[page.name] = browser.evaluate(TOO_WIDE)
    assert wide == {}


def test_the_keyboard_reaches_what_can_be_used(book: Book, browser: Browser) -> None:
    """Tab goes through links, sliders and buttons, and one sees where it is."""
    browser.open((book.html / "notebooks" / "01_problem.html").as_uri())
    seen = []
    for _ in range(400):
        browser.press("Tab")
        now = browser.evaluate(FOCUSED)
        if now is None or (seen and now["id"] == seen[0]["id"]):
            break
        seen.append(now)
    kinds = {each["tag"] for each in seen}
    assert {"A", "INPUT", "BUTTON"} <= kinds and len(seen) > 30
    assert [each for each in seen if not each["marked"]] == []
    slider = "document.querySelector('.migcore-slider input')"
    browser.evaluate(f"{slider}.focus()")
    browser.press("ArrowRight")
    assert browser.evaluate(f"{slider}.value") == "1"


def test_maths_is_drawn(book: Book, browser: Browser) -> None:
    for name, least in (("02_preprocessing", 2), ("03_teacher", 1), ("06_skeleton_stream", 2)):
        browser.open((book.html / "notebooks" / f"{name}.html").as_uri(), until=RENDERED)
        assert browser.evaluate("document.querySelectorAll('mjx-container[display] svg').length") >= least
        assert browser.evaluate("document.querySelectorAll('mjx-container [data-mml-node=merror]').length") == 0
        assert "\\(" not in browser.evaluate("document.querySelector('.bd-article').innerText")


def test_search_finds_a_term(book: Book, browser: Browser) -> None:
    search = (book.html / "search.html").as_uri()
    browser.open(f"{search}?q=Gaussian", until="document.querySelectorAll('ul.search li').length")
    links = browser.evaluate("[...document.querySelectorAll('ul.search li a')].map(a => a.href)")
    assert any("02_preprocessing.html" in link for link in links)
    assert browser.errors == [] and browser.foreign() == []


def test_tables_are_numbered_as_in_the_paper(book: Book, browser: Browser) -> None:
    browser.open((book.html / "notebooks" / "08_tables.html").as_uri())
    captions = browser.evaluate(
        "[...document.querySelectorAll('table caption .caption-number')].map(c => c.innerText.trim())"
    )
    assert captions[:3] == ["Table 1", "Table 2", "Table 3"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_are_legible(book: Book, tmp_path: Path, dark: bool) -> None:
    with Browser(tmp_path / "profile", dark=dark) as browser:
        for page in (book.html / "intro.html", *sorted((book.html / "notebooks").glob("*.html"))):
            browser.open(page.as_uri())
            assert browser.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
            assert browser.evaluate(FAINT) == [], page.name


@pytest.mark.parametrize("page", ["01_problem", "05_temporal_view"])
def test_a_slider_leafs_and_says_what_it_shows(book: Book, browser: Browser, page: str) -> None:
    browser.open((book.html / "notebooks" / f"{page}.html").as_uri())
    box = "document.querySelector('.migcore-slider')"
    seen = f"[...{box}.querySelectorAll('img')].filter(i => i.offsetParent !== null).map(i => i.alt)"
    first = browser.evaluate(seen)
    assert len(first) == 1 and browser.evaluate(f"{box}.querySelector('output').textContent") == first[0]
    browser.evaluate(f"(r => {{ r.value = 1; r.dispatchEvent(new Event('input')) }})({box}.querySelector('input'))")
    second = browser.evaluate(seen)
    assert len(second) == 1 and second != first
    assert browser.evaluate(f"{box}.querySelector('input').getAttribute('aria-valuetext')") == second[0]
    if browser.evaluate(f"{box}.querySelector('button') !== null"):
        browser.evaluate(f"{box}.querySelector('button').click()")
        browser.wait(f"({seen})[0] !== {json.dumps(second[0])}")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_animation_plays(book: Book, browser: Browser) -> None:
    browser.open((book.html / "notebooks" / "02_preprocessing.html").as_uri())
    picture = "document.querySelector('.animation img')"
    first = browser.evaluate(f"{picture}.src")
    assert first.startswith("data:image/")
    browser.evaluate("document.querySelector('.animation button[title=Play]').click()")
    browser.wait(f"{picture}.src !== {json.dumps(first)}")


@pytest.mark.parametrize(
    ("width", "dark"), [(UPRIGHT, True), (SIDEWAYS, False)], ids=["upright-dark", "sideways-light"]
)
def test_every_page_prints_well(book: Book, tmp_path: Path, width: int, dark: bool) -> None:
    """Nothing is cut off or of use on screens only, one title, dark on white: with backgrounds and without."""
    wrong = {}
    with Browser(tmp_path / "profile", dark=dark, width=width) as browser:
        for page in documents(book):
            browser.open(page.as_uri(), until=RENDERED)
            browser.media("print")
            found = {name: browser.evaluate(script) for name, script in ON_PAPER.items()}
            browser.evaluate(NO_BACKGROUNDS)
            found["faint without backgrounds"] = browser.evaluate(FAINT)
            if any(found.values()):
                wrong[page.name] = {name: problems for name, problems in found.items() if problems}
    assert wrong == {}


@pytest.mark.parametrize("page", ["01_problem", "02_preprocessing", "05_temporal_view"])
def test_what_moves_prints_still(book: Book, browser: Browser, page: str) -> None:
    """Of what plays one picture; of a slider that only leafs all, each with its words."""
    boxes = "[...document.querySelectorAll('.migcore-slider, .animation')]"
    seen = f"{boxes}.map(b => [...b.querySelectorAll('img')].filter(e => e.checkVisibility()).length)"
    browser.open((book.html / "notebooks" / f"{page}.html").as_uri())
    before = browser.evaluate(seen)
    expected = browser.evaluate(f"{boxes}.map(b => b.querySelector('button') ? 1 : b.querySelectorAll('img').length)")
    assert before and set(before) == {1}
    browser.media("print")
    assert browser.evaluate(seen) == expected
    controls = f"{boxes}.flatMap(b => [...b.querySelectorAll('input, button, label')])"
    assert browser.evaluate(f"{controls}.filter(e => e.checkVisibility()).map(e => e.outerHTML)") == []
    leafed = f"{boxes}.filter(b => !b.querySelector('button'))"
    for words, text in browser.evaluate(
        f"{leafed}.map(b => [[...b.querySelectorAll('img')].map(e => e.alt), b.innerText])"
    ):
        assert len(words) > 1 and [each for each in words if text.count(each) != 1] == []
    browser.media("screen")
    assert browser.evaluate(seen) == before
    assert browser.evaluate("document.querySelectorAll('.migcore-slider figure').length") == 0


def test_solutions_are_printed_and_folded_code_is_not(book: Book, browser: Browser) -> None:
    browser.open((book.html / "notebooks" / "01_problem.html").as_uri())
    solutions = (
        "[...document.querySelectorAll('.solution')].map(e => (s => s.visibility === 'visible' && s.opacity === '1'"
        " && e.lastElementChild.offsetHeight > 20)(getComputedStyle(e.lastElementChild)))"
    )
    code = "[...document.querySelectorAll('details.hide')].map(e => e.checkVisibility() && e.innerText.includes('='))"
    assert set(browser.evaluate(solutions)) == {False}
    browser.media("print")
    assert set(browser.evaluate(solutions)) == {True}
    assert set(browser.evaluate(code)) == {False}
    browser.media("screen")
    browser.evaluate("document.querySelector('details.hide').open = true")
    browser.media("print")
    assert browser.evaluate(code)[0] and not any(browser.evaluate(code)[1:])
    browser.media("screen")


def test_pages_break_between_things(book: Book, browser: Browser) -> None:
    styles: dict[str, set[str]] = {}
    for page in ("01_problem", "08_tables"):
        browser.open((book.html / "notebooks" / f"{page}.html").as_uri())
        browser.media("print")
        for selector, kind in BREAKS.items():
            values = f"[...document.querySelectorAll('.bd-article {selector}')].map(e => getComputedStyle(e).{kind})"
            styles.setdefault(selector, set()).update(browser.evaluate(values))
        browser.media("screen")
    assert styles == {selector: {"avoid"} for selector in BREAKS}


def test_a_browser_that_prints_gets_the_page_ready_and_back(book: Book, tmp_path: Path) -> None:
    """A real PDF, from dark mode: light while it is made, with all pictures of the slider, and dark again after it."""
    state = (
        "[document.documentElement.dataset.theme, document.querySelectorAll('.admonition.toggle-hidden').length,"
        " document.querySelectorAll('.migcore-slider img[hidden]').length]"
    )
    with Browser(tmp_path / "profile", dark=True) as browser:
        browser.open((book.html / "notebooks" / "05_temporal_view.html").as_uri(), until=RENDERED)
        before = browser.evaluate(state)
        assert before[0] == "dark" and before[1] > 0 and before[2] > 0
        browser.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {state}; }})")
        assert browser.pdf().startswith(b"%PDF")
        assert browser.evaluate("window.printed") == ["light", 0, 0]
        assert browser.evaluate(state) == before
