"""The Sphinx extension, on a book of two pages: what is run and when, how a failure looks, what the pages hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import paperbook
import paperbook_run
import pytest
import yaml
from paperbook_run import BookError, Settings, run_book
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring, NumpyDocstring

from migcore import cli
from tests.book.building import ROOT, Outcome, environment, executed, run

pytestmark = pytest.mark.book
HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---
"""
FIRST = """
# %% [markdown]
# # A first page
#
# What it shows.

# %% tags=["parameters"]
preset = "laptop"
seed = 0
overrides: dict[str, str] = {}

# %%
import os
import sys
import warnings

import migcore

warnings.warn("seen on the terminal only", stacklevel=1)
print("given", preset, seed, overrides, migcore.NAME)
print("here", os.getcwd(), "and", sys.prefix)

# %% [markdown]
# $$\\boldsymbol{x}^2$$ (eq-square)
"""
SECOND = """
# %% [markdown]
# # A second page

# %% tags=["parameters"]
preset = "laptop"
seed = 0
overrides: dict[str, str] = {}

# %%
answer = 6 * 7

# %%
answer
"""
FAILING = '\n# %%\nif answer:\n    raise ValueError("no such\\nthing")\n'


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """The repository of the small book: the real settings and extension around two notebooks."""
    root = tmp_path / "mini"
    for folder in ("book/_ext", "book/_static"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", root)
    (root / "book" / "references.bib").write_text("")
    (root / "book" / "intro.md").write_text("# A small book\n\nIts text.\n")
    pages = [{"file": "notebooks/01_first"}, {"file": "notebooks/02_second"}]
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "intro", "chapters": pages}))
    (root / "notebooks").mkdir()
    (root / "notebooks" / "01_first.py").write_text(HEADER + FIRST)
    (root / "notebooks" / "02_second.py").write_text(HEADER + SECOND)
    (root / "migcore").mkdir()
    (root / "migcore" / "__init__.py").write_text('NAME = "the small package"\n')
    return root


def set_address(root: Path, url: str) -> None:
    """Write the repository's address where a maintainer would."""
    config = root / "_config.yml"
    config.write_text(re.sub(r'(?m)^  url: ".*"$', f'  url: "{url}"', config.read_text()))


def build(root: Path, **changes: str) -> Outcome:
    return run(["jupyter-book", "build", "book", "-W", "--keep-going"], root, **changes)


def test_builds_runs_what_is_stale_and_fails_in_one_line(mini: Path) -> None:
    set_address(mini, "")
    first = build(mini, BOOK_SET="a.b=1")
    assert first.status == 0 and "WARNING" not in first.text, first.text
    assert executed(first.text) == ["01_first", "02_second"]
    assert "seen on the terminal only" in first.text
    page = (mini / "_build/html/notebooks/01_first.html").read_text()
    assert "given smoke 0 {'a.b': '1'} the small package" in page
    assert "preset <strong>smoke</strong>" in page and "a.b=1" in page
    assert page.count("seen on the terminal only") == 1  # in the source, not as an output
    for label in ("Colab", "Binder", "source-edit-button", "source-repository-button", "source-issues-button"):
        assert label not in page

    again = build(mini, BOOK_SET="a.b=1")
    assert again.status == 0 and executed(again.text) == []

    second = mini / "notebooks" / "02_second.py"
    good = second.read_text()
    second.write_text(good + FAILING)
    failed = build(mini, BOOK_SET="a.b=1")
    assert failed.status == 1 and executed(failed.text) == ["02_second"]
    line = good.count("\n") + 3
    error = f"notebooks/02_second.py: code cell 4, line {line}: ValueError: no such thing"
    assert sum("02_second" in row and "running" not in row for row in failed.text.splitlines()) == 1
    assert error in failed.text and "Traceback" not in failed.text

    second.write_text(good)
    assert executed(build(mini, BOOK_SET="a.b=1").text) == []  # the page that was good is still there
    refused = build(mini, BOOK_EXECUTE="sometimes")
    assert refused.status == 1 and "BOOK_EXECUTE=sometimes is not one of auto, force, off" in refused.text


WAITING = """
# %%
import pathlib, time
pathlib.Path("_build/started").touch()
while not pathlib.Path("_build/go").exists():
    time.sleep(0.05)
"""


@contextmanager
def waiting_build(root: Path, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A build in a process group of its own, at the moment when its second notebook waits for ``_build/go``."""
    second = root / "notebooks" / "02_second.py"
    second.write_text(second.read_text() + WAITING)
    process = subprocess.Popen(
        ["jupyter-book", "build", "book", "-W"], cwd=root, env=environment(**changes), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(2400):
            if (root / "_build" / "started").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None and (root / "_build" / "started").exists()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


MEETING = """
# %%
import pathlib, time
pathlib.Path("_build/{own}").touch()
for _ in range(1200):
    if pathlib.Path("_build/{other}").exists():
        break
    time.sleep(0.05)
else:
    raise SystemExit("nobody came")
"""


def test_two_notebooks_run_at_a_time_and_either_may_fail(mini: Path) -> None:
    """Each waits for the other, so that one after the other would never end."""
    for name, own, other in (("01_first", "a", "b"), ("02_second", "b", "a")):
        source = mini / "notebooks" / f"{name}.py"
        source.write_text(source.read_text() + MEETING.format(own=own, other=other))
    outcome = build(mini, BOOK_JOBS="2")
    assert outcome.status == 0, outcome.text
    assert executed(outcome.text) == ["01_first", "02_second"] and outcome.text.count(": done in") == 2
    first = mini / "notebooks" / "01_first.py"
    first.write_text(first.read_text() + '\n# %%\nraise ValueError("not today")\n')
    second = mini / "notebooks" / "02_second.py"
    second.write_text(second.read_text() + "\n# %%\n1\n")
    failed = build(mini, BOOK_JOBS="2")
    assert failed.status == 1 and "notebooks/01_first.py: code cell" in failed.text and "not today" in failed.text
    assert "Traceback" not in failed.text and "notebooks/02_second.py: done in" in failed.text
    assert build(mini, BOOK_JOBS="0").status == 1


def test_of_two_builds_at_once_the_second_is_refused(mini: Path) -> None:
    with waiting_build(mini) as first:
        second = build(mini)
        assert second.status == 1 and executed(second.text) == []
        assert "another build of this book is at work" in second.text and "Traceback" not in second.text
        (mini / "_build" / "go").touch()
        text, _ = first.communicate(timeout=300)
    assert first.returncode == 0 and executed(text) == ["01_first", "02_second"], text


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_leaves_nothing_half_written(mini: Path, jobs: str) -> None:
    page = mini / "book" / "notebooks" / "01_first.ipynb"
    with waiting_build(mini, BOOK_JOBS=jobs) as process:
        for _ in range(1200):
            if page.exists():
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=120)
    assert process.returncode != 0
    assert [path.name for path in page.parent.iterdir()] == [page.name]
    (mini / "_build" / "go").touch()
    again = build(mini)
    assert again.status == 0 and executed(again.text) == ["02_second"], again.text


def test_any_path_will_do_and_notebooks_are_only_read(mini: Path, tmp_path: Path) -> None:
    root = mini.rename(tmp_path / "ein Häuschen 小屋")
    folder = root / "notebooks"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    folder.chmod(0o555)  # root may write all the same; what it wrote would show
    try:
        outcome = build(root)
    finally:
        folder.chmod(0o755)
    assert outcome.status == 0 and executed(outcome.text) == ["01_first", "02_second"], outcome.text
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    page = (root / "_build/html/notebooks/01_first.html").read_text(encoding="utf-8")
    assert "here . and" in page and "Häuschen" not in page


def test_a_build_needs_no_network(mini: Path) -> None:
    alone = "unshare -rn sh -c 'ip link set lo up && {}'"  # the kernel talks to its client over the loopback
    if run(alone.format("true"), mini).status != 0:
        pytest.skip("this machine lets nobody build without its network")
    assert run(alone.format("ip -o link"), mini).text.count("\n") == 1  # nothing but the loopback
    outcome = run(alone.format("jupyter-book build book -W --keep-going"), mini)
    assert outcome.status == 0 and executed(outcome.text) == ["01_first", "02_second"], outcome.text


def test_buttons_follow_the_one_address(mini: Path) -> None:
    set_address(mini, "https://github.com/someone/something")
    outcome = build(mini)
    assert outcome.status == 0, outcome.text
    links = re.findall(r'href="(https?://[^"]+)"', (mini / "_build/html/notebooks/01_first.html").read_text())
    assert "https://colab.research.google.com/github/someone/something/blob/main/notebooks/01_first.ipynb" in links
    binder = "https://mybinder.org/v2/gh/someone/something/main?urlpath=lab/tree/notebooks/01_first.ipynb"
    assert binder in links
    assert "https://github.com/someone/something/edit/main/notebooks/01_first.py" in links
    assert not [link for link in links if "book/notebooks" in link]
    prose = (mini / "_build/html/intro.html").read_text()
    assert "https://github.com/someone/something/edit/main/book/intro.md" in prose and "Colab" not in prose


def test_handed_out_notebooks_hold_nothing_of_the_run_or_the_machine(mini: Path) -> None:
    failures = run_book(mini, Settings("auto", {"preset": "smoke", "seed": 3, "overrides": {}}), lambda line: None)
    assert failures == []
    path = mini / "book" / "notebooks" / "01_first.ipynb"
    text = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert str(mini) not in text and str(Path.home()) not in text and "papermill" not in text and "stderr" not in text
    assert "here . and …" in text
    assert notebook.cells[1].metadata.tags == ["provenance"]
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and "remove-cell" in injected[0].metadata.tags
    facts = notebook.metadata.paperbook
    assert (facts.preset, facts.seed, facts.commit) == ("smoke", 3, "none") and facts.device.startswith(
        ("CPU", "NVIDIA")
    )
    before = path.read_bytes()
    run_book(mini, Settings("force", {"preset": "smoke", "seed": 3, "overrides": {}}), lambda line: None)
    after = json.loads(path.read_bytes())
    after["metadata"]["paperbook"]["seconds"] = facts.seconds
    after["cells"][1] = json.loads(before)["cells"][1]
    assert after == json.loads(before)  # a page that is run again is the same page


@pytest.mark.parametrize("change", ["notebook", "package", "results", "parameters"])
def test_stamp_follows_everything_a_page_depends_on(mini: Path, change: str) -> None:
    source = mini / "notebooks" / "01_first.py"
    parameters = {"preset": "smoke", "seed": 0, "overrides": {}}
    before = paperbook_run.stamp(source, parameters, paperbook_run.sources_hash(mini))
    assert before == paperbook_run.stamp(source, dict(parameters), paperbook_run.sources_hash(mini))
    (mini / "migcore" / "__pycache__").mkdir()
    (mini / "migcore" / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert before == paperbook_run.stamp(source, parameters, paperbook_run.sources_hash(mini))
    if change == "notebook":
        source.write_text(source.read_text() + "\n# more\n")
    elif change == "package":
        (mini / "migcore" / "__init__.py").write_text('NAME = "another"\n')
    elif change == "results":
        (mini / "results").mkdir()
        (mini / "results" / "run.json").write_text("{}")
    else:
        parameters["seed"] = 1
    assert before != paperbook_run.stamp(source, parameters, paperbook_run.sources_hash(mini))


def test_pages_of_notebooks_that_are_gone_go_too(mini: Path) -> None:
    out = mini / "book" / "notebooks"
    out.mkdir()
    (out / "07_gone.ipynb").write_text("{}")
    (out / "01_first.ipynb").write_text("{}")
    (out / "02_second.ipynb").write_text("{}")
    assert run_book(mini, Settings("off", {}), lambda line: None) == []
    assert sorted(p.name for p in out.iterdir()) == ["01_first.ipynb", "02_second.ipynb"]


def test_off_without_pages_says_which(mini: Path) -> None:
    with pytest.raises(BookError, match="01_first, 02_second was never executed"):
        run_book(mini, Settings("off", {}), lambda line: None)


def test_unreadable_notebook_and_dead_kernel_are_one_line_each(mini: Path) -> None:
    (mini / "notebooks" / "01_first.py").write_bytes(b"\xff\xfe\x00")
    (mini / "notebooks" / "02_second.py").write_text(HEADER + "\n# %%\nimport os\n\nos._exit(1)\n")
    failures = run_book(mini, Settings("auto", {"preset": "smoke"}), lambda line: None)
    assert len(failures) == 2 and not any("\n" in line for line in failures)
    assert failures[0].startswith("notebooks/01_first.py: UnicodeDecodeError")
    assert failures[1].startswith("notebooks/02_second.py: DeadKernelError")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("BOOK_SEED", "one", "BOOK_SEED=one is not a number"),
        ("BOOK_SET", "a.b", "'a.b' is not field=value"),
        ("BOOK_EXECUTE", "", "BOOK_EXECUTE= is not one of"),
        ("BOOK_JOBS", "all", "BOOK_JOBS=all is not a number of notebooks"),
    ],
)
def test_settings_that_cannot_be_meant(name: str, value: str, told: str) -> None:
    with pytest.raises(BookError, match=re.escape(told)):
        Settings.from_environment({name: value})


def test_settings_default_to_the_laptop() -> None:
    told = {"preset": "laptop", "seed": 0, "overrides": {}}
    assert Settings.from_environment({"BOOK_JOBS": "1"}) == Settings("auto", told)
    given = {"BOOK_SEED": "2", "BOOK_SET": "data.root='a b' x=", "BOOK_EXECUTE": "force", "BOOK_JOBS": "3"}
    told = {"preset": "laptop", "seed": 2, "overrides": {"data.root": "a b", "x": ""}}
    assert Settings.from_environment(given) == Settings("force", told, 3)


@pytest.mark.parametrize(("cores", "preset", "jobs"), [(2, "laptop", 1), (4, "laptop", 2), (16, "imigue", 1)])
def test_as_many_notebooks_at_a_time_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, preset: str, jobs: int
) -> None:
    monkeypatch.setattr(paperbook_run, "_cores", lambda: cores)
    assert Settings.from_environment({"BOOK_PRESET": preset}).jobs == jobs


def test_docstrings_become_what_rst_asks_for() -> None:
    lines = [
        "Choices:",
        "* one",
        "  goes on",
        "* two |x|",
        "",
        "Returns:",
        "    val_… and ``val_`` and a_b",
        "    - a",
        "    - b",
    ]
    paperbook.tidy_docstring(None, "module", "m", None, None, lines)  # type: ignore[arg-type]
    assert lines[:5] == ["Choices:", "", "* one", "  goes on", "* two \\|x\\|"]
    assert lines[6:] == ["Returns:", "    \\ ", "    val\\_… and ``val_`` and a_b", "", "    - a", "    - b"]


def documented(what: str, *lines: str) -> list[str]:
    """A docstring as autodoc hands it on, after this extension's and napoleon's work."""
    found = list(lines)
    config = Config(napoleon_attr_annotations=False)
    paperbook.tidy_docstring(None, what, "m", None, None, found)  # type: ignore[arg-type]
    for reader in (NumpyDocstring, GoogleDocstring):  # both, as napoleon does
        found = reader(found, config, what=what).lines()
    paperbook.types_behind_names(None, what, "m", None, None, found)  # type: ignore[arg-type]
    return [line for line in found if line.strip() not in ("", "\\")]


@pytest.mark.parametrize("what", ["attribute", "data", "property"])
def test_a_text_with_a_colon_is_not_cut(what: str) -> None:
    assert documented(what, "Points of the grid: all of them", "that are looked at.") == [
        "Points of the grid: all of them",
        "that are looked at.",
    ]


def test_a_letter_alone_numbers_no_list() -> None:
    found = documented("function", "Cut.", "", "Args:", "    joints: V.", "    size: H W, see B.C.", "")
    assert found[-2:] == [":param joints: \\V.", ":param size: H W, see B.C."]


@pytest.mark.parametrize("section", ["Returns", "Yields"])
def test_what_is_returned_is_no_type(section: str) -> None:
    found = documented("function", "Cut.", "", f"{section}:", "    two numbers: the first,", "    and the second.", "")
    assert not [line for line in found if ":rtype:" in line or "*" in line]
    assert [line.strip() for line in found[-2:]] == ["two numbers: the first,", "and the second."]


def test_the_type_of_a_field_stands_behind_its_name() -> None:
    lines = [".. attribute:: a", "", "   One.", "", "   :type: int", "", ".. attribute:: b", "", "   Two.", ""]
    paperbook.types_behind_names(None, "class", "m", None, None, lines)  # type: ignore[arg-type]
    assert lines[:4] == [".. attribute:: a", "   :type: int", "", "   One."] and lines[-4] == ".. attribute:: b"
    assert sum(":type:" in line for line in lines) == 1


def test_the_command_line_is_shown_as_its_help() -> None:
    text = "\n".join(paperbook.command_help())
    for command in cli.COMMANDS:
        assert f"``migcore {command}``" in text and f"    usage: migcore {command} [-h]" in text
    assert "usage: migcore runs pack [-h] PATH [KEY ...]" in text and "\x1b" not in text
