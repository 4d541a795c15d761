"""Run the notebooks: py:percent -> jupytext -> papermill -> ``book/notebooks/NN.ipynb``, only those that are stale.

A page is stale when its stamp no longer matches: the hash of the notebook's source, of its parameters, of every file
of ``migcore`` and of ``results/``. The stamp stands in the executed notebook's own metadata, so a page and its stamp
cannot part. What a run costs is not decided here: runs are in the ledger, and a notebook that is run again loads them.

Settings come from the environment, because the command is always ``jupyter-book build book``:

``BOOK_PRESET``   the preset that every notebook gets (default ``laptop``)
``BOOK_SEED``     the seed (default 0)
``BOOK_SET``      overrides of preset fields, ``"posec3d.base_channels=8 skeleton.frames=16"``
``BOOK_EXECUTE``  ``auto`` (what is stale), ``force`` (all) or ``off`` (show what is there)
``BOOK_JOBS``     notebooks at a time (default 2 where there are four cores and the preset is a small one, else 1)
"""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

MODES = ("auto", "force", "off")
LEVELS = {
    "smoke": "a few dozen studio clips: it shows that everything runs, its numbers mean nothing",
    "laptop": "the studio; runs are made by this build or loaded from identical earlier ones",
    "workstation": "the larger studio, recorded runs",
    "imigue": "iMiGUE itself",
}
SMALL = ("smoke", "laptop")
"""Presets of which two notebooks fit beside each other; the others' trainings want the whole machine."""
PROBE = """\
import json, os, sys
torch = sys.modules.get("torch")
cuda = torch is not None and torch.cuda.is_available()
print(json.dumps({"device": torch.cuda.get_device_name() if cuda else f"CPU ({os.cpu_count()} cores)"}))
"""


Work = tuple[Path, Path, dict[str, Any], dict[str, Any]]
"""A page to make: root, source, parameters, facts."""
Made = tuple[Path, float, str]
"""A page that ended: source, seconds, and "" or why it failed."""


class BookError(Exception):
    """A setting or a notebook that keeps the book from being built; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """What the environment asks for.

    Attributes:
        mode: one of :data:`MODES`.
        parameters: what every notebook gets: ``preset``, ``seed`` and ``overrides``.
        jobs: notebooks at a time. One that needs a run which another is making waits for it.
    """

    mode: str
    parameters: dict[str, Any]
    jobs: int = 1

    @classmethod
    def from_environment(cls, environment: dict[str, str] | os._Environ[str] = os.environ) -> Settings:
        """Read ``BOOK_*``.

        Raises:
            BookError: a value that cannot be meant.
        """
        mode = environment.get("BOOK_EXECUTE", "auto")
        if mode not in MODES:
            raise BookError(f"BOOK_EXECUTE={mode} is not one of {', '.join(MODES)}")
        seed = environment.get("BOOK_SEED", "0")
        if not seed.isdecimal():
            raise BookError(f"BOOK_SEED={seed} is not a number")
        overrides: dict[str, str] = {}
        for item in shlex.split(environment.get("BOOK_SET", "")):
            field, equals, value = item.partition("=")
            if not (field and equals):
                raise BookError(f"BOOK_SET: {item!r} is not field=value")
            overrides[field] = value
        preset = environment.get("BOOK_PRESET") or "laptop"
        jobs = environment.get("BOOK_JOBS") or str(2 if _cores() >= 4 and preset in SMALL else 1)
        if not jobs.isdecimal() or int(jobs) < 1:
            raise BookError(f"BOOK_JOBS={jobs} is not a number of notebooks")
        return cls(mode, {"preset": preset, "seed": int(seed), "overrides": overrides}, int(jobs))


def sources_hash(root: Path) -> str:
    """Hash of all that a notebook's numbers and figures may depend on: ``migcore`` with its assets, and ``results``."""
    digest = hashlib.sha256()
    for folder in (root / "migcore", root / "results"):
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def stamp(source: Path, parameters: dict[str, Any], sources: str) -> str:
    """What an executed notebook is the result of."""
    told = json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(b"\0".join([source.read_bytes(), told.encode(), sources.encode()])).hexdigest()


def commit(root: Path) -> str:
    """Short hash of the commit, with a ``+`` when tracked files differ from it; "none" outside a repository."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
        if Path(run("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return "none"
        return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def run_book(root: Path, settings: Settings, say: Callable[[str], None]) -> list[str]:
    """Bring ``book/notebooks`` up to date with ``notebooks``.

    Args:
        root: the repository.
        settings: mode and parameters.
        say: gets a line for each notebook that is run.

    Returns:
        One line for each notebook that failed: file, cell, error.

    Raises:
        BookError: with mode "off", a page that was never executed.
    """
    out = root / "book" / "notebooks"
    out.mkdir(parents=True, exist_ok=True)
    found = sorted((root / "notebooks").glob("*.py"))
    for page in out.glob("*.ipynb"):
        if page.stem not in {source.stem for source in found}:
            page.unlink()
    if settings.mode == "off":
        missing = [source.stem for source in found if not (out / f"{source.stem}.ipynb").exists()]
        if missing:
            raise BookError(f"BOOK_EXECUTE=off, but {', '.join(missing)} was never executed: build once without it")
        return []
    sources, at = sources_hash(root), commit(root)
    stale, preset = [], settings.parameters.get("preset")
    for source in found:
        facts = {"stamp": stamp(source, settings.parameters, sources), "commit": at, **settings.parameters}
        if settings.mode == "force" or _stamp_of(out / f"{source.stem}.ipynb") != facts["stamp"]:
            stale.append((root, source, settings.parameters, facts))
    failed = {}
    begin = lambda source: say(f"{_name(source)}: running, preset {preset}")  # noqa: E731
    for source, seconds, failure in made(stale, settings.jobs, begin):
        if failure:
            failed[source] = failure
        else:
            say(f"{_name(source)}: done in {seconds:.0f} s")
    return [failed[source] for source in found if source in failed]


def made(stale: list[Work], jobs: int, begin: Callable[[Path], None]) -> Iterator[Made]:
    """What :func:`make_page` says of each page, as they end, ``jobs`` at a time; ``begin`` is told which one begins."""
    if min(jobs, len(stale)) < 2:
        for work in stale:
            begin(work[1])
            yield make_page(*work)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _share_cores, (jobs,))
    waiting, at_work = list(stale), set[Future[Made]]()
    try:
        while waiting or at_work:
            while waiting and len(at_work) < jobs:
                begin(waiting[0][1])
                at_work.add(pool.submit(make_page, *waiting.pop(0)))
            done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
    except BaseException:  # Ctrl-C: a process that the terminal did not tell is told here
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def make_page(root: Path, source: Path, parameters: dict[str, Any], facts: dict[str, Any]) -> Made:
    """Run one notebook and write its page.

    Returns:
        source, seconds, and "" or, in one line, why there is no page.
    """
    start = time.monotonic()
    try:
        notebook = execute(root, source, parameters)
    except BookError as error:
        return source, 0.0, str(error)
    seconds = time.monotonic() - start
    page = finish(notebook, {**facts, "seconds": round(seconds, 1)}, root)
    _write(root / "book" / "notebooks" / f"{source.stem}.ipynb", page)
    return source, seconds, ""


def execute(root: Path, source: Path, parameters: dict[str, Any]) -> nbformat.NotebookNode:
    """Run one notebook from the repository's root.

    Raises:
        BookError: it cannot be read, or a cell failed; names notebook, cell, line and error.
    """
    work = root / "_build" / "papermill" / f"{source.stem}.ipynb"
    work.parent.mkdir(parents=True, exist_ok=True)
    os.environ["IPYTHONDIR"] = str(_ipython(root))
    try:
        notebook = jupytext.read(source, fmt="py:percent")
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        notebook.cells.append(nbformat.v4.new_code_cell(PROBE, metadata={"tags": ["probe"]}))
        nbformat.write(notebook, work)
        # stderr (progress bars, warnings) goes to the terminal as it comes; finish() keeps it out of the page
        papermill.execute_notebook(
            str(work), str(work), parameters=parameters, cwd=str(root), kernel_name="python3", progress_bar=False,
            stderr_file=sys.stderr,
        )  # fmt: skip
    except PapermillExecutionError as error:
        place = _place(source.read_text(encoding="utf-8"), cells, error.source)
        raise BookError(f"{_name(source)}: {place}{error.ename}: {_one_line(error.evalue)}") from None
    except (
        Exception
    ) as error:  # a dead kernel, a malformed file: whatever it is, the reader gets one line with the name
        raise BookError(f"{_name(source)}: {type(error).__name__}: {_one_line(str(error))}") from None
    return nbformat.read(work, as_version=4)


def finish(notebook: nbformat.NotebookNode, facts: dict[str, Any], root: Path) -> nbformat.NotebookNode:
    """An executed notebook as the book shows it and hands it out.

    Traces of the run (papermill's times and paths, the injected parameters, stderr, the probe) and paths of this
    machine go; a line that says how the page was made comes, after the first cell.

    Args:
        notebook: as papermill wrote it.
        facts: stamp, seconds, commit, preset, seed, overrides.
        root: the repository, whose path is cut from the outputs.
    """
    probe = notebook.cells.pop()
    facts = {**facts, **json.loads("".join(o.text for o in probe.outputs if o.get("name") == "stdout"))}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"].append("remove-cell")
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output.data["text/html"] = _self_contained(output.data["text/html"])
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("jupytext", None)  # else an editor with jupytext would pair the executed copy
    notebook.metadata["paperbook"] = facts
    line = nbformat.v4.new_markdown_cell(provenance(facts), metadata={"tags": ["provenance"]})
    notebook.cells.insert(1, line)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return _without_paths(notebook, root)


def provenance(facts: dict[str, Any]) -> str:
    """The line under a page's title."""
    changed = "".join(f" `{field}={value}`" for field, value in facts["overrides"].items())
    parts = [
        f"preset **{facts['preset']}**{changed} ({LEVELS.get(facts['preset'], 'a preset of your own')})",
        f"seed {facts['seed']}",
        facts["device"],
        f"{facts['seconds']:.0f} s",
        f"commit `{facts['commit']}`",
    ]
    return ":::{div} provenance\nThis page was made with " + " · ".join(parts) + "\n:::"


def _self_contained(html: str) -> str:
    """HTML without foreign style sheets; matplotlib's player asks for one, whose icons the theme has itself."""
    html = re.sub(r'<link[^>]*href="(?:https?:)?//[^>]*>', "", html)
    return re.sub(r'<img (?=id="_anim_img)(?![^>]*\balt=)', '<img alt="Animation" ', html)


def _without_paths(notebook: nbformat.NotebookNode, root: Path) -> nbformat.NotebookNode:
    """The notebook with the paths of this machine cut from all texts, the longest first."""
    places = {str(root): ".", str(root.resolve()): ".", sys.prefix: "…", sys.base_prefix: "…", str(Path.home()): "~"}
    order = sorted((p for p in places if len(p) > 4), key=len, reverse=True)
    # the bounds keep it out of base64, whose letters include the slash
    pattern = re.compile(rf"(?<![\w/+])(?:{'|'.join(map(re.escape, order))})(?![\w+-])")

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: places[match.group()], value)
        if isinstance(value, list):
            return [clean(v) for v in value]
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        return value

    result: nbformat.NotebookNode = nbformat.from_dict(clean(copy.deepcopy(notebook)))
    return result


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share_cores(jobs: int) -> None:
    """Threads of the kernels that this process starts."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // jobs)))


def _ipython(root: Path) -> Path:
    """An IPython folder of the book's own: a reader's start-up files have no say in it, nor has ipykernel's chatter."""
    folder = root / "_build" / "ipython"
    settings = folder / "profile_default" / "ipython_kernel_config.py"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("c = get_config()\nc.IPKernelApp.log_level = 50\n")
    return folder


def _stamp_of(page: Path) -> str | None:
    try:
        return str(json.loads(page.read_text(encoding="utf-8"))["metadata"]["paperbook"]["stamp"])
    except (OSError, ValueError, KeyError):
        return None


def _write(page: Path, notebook: nbformat.NotebookNode) -> None:
    partial = page.with_name(f".{page.name}.partial")
    nbformat.write(notebook, partial)
    os.replace(partial, page)


def _place(text: str, cells: list[str], failed: str) -> str:
    """ "code cell 3, line 42: " of a failed cell's source, or nothing for a cell that is not in the file."""
    if failed not in cells:
        return ""
    at = text.find(failed)
    line = "" if at < 0 else f", line {text.count(chr(10), 0, at) + 1}"
    return f"code cell {cells.index(failed) + 1}{line}: "


def _name(source: Path) -> str:
    return f"notebooks/{source.name}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]
