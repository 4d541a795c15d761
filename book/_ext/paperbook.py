"""The book's Sphinx extension: notebooks run before the pages are read, and pages that need nothing but themselves.

Notable choices: the notebooks run on ``config-inited`` before sphinx-external-toc looks for files, so that the one
command ``jupyter-book build book`` does all; a failed notebook ends the build with status 1 (Jupyter Book itself would
only warn); MathJax is the copy of the package ``sphinx-mathjax-offline``, cut to the SVG output, so that no page asks
another machine for anything.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from textwrap import wrap
from typing import Any
from unittest.mock import patch

from filelock import FileLock, Timeout
from paperbook_run import BookError, Settings, run_book
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.autodoc import FunctionDocumenter
from sphinx.util import logging

logger = logging.getLogger(__name__)

MATHJAX = "mathjax/tex-svg.js"
NO_TYPE = "\\ "
"""Nothing, as markup: what comes on the next line is a text, whatever colons it has."""
SOURCE_BUTTONS = ("use_repository_button", "use_issues_button", "use_edit_page_button")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect everything; Sphinx calls it."""
    app.connect("config-inited", configure, priority=90)
    app.connect("config-inited", run_notebooks, priority=100)
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(OneSignature, override=True)
    app.connect("autodoc-process-docstring", tidy_docstring, priority=400)  # before napoleon reads it
    app.connect("autodoc-process-docstring", types_behind_names, priority=600)  # after it
    app.connect("html-page-context", repair_context, priority=900)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def configure(app: Sphinx, config: Config) -> None:
    """Offline maths; buttons that need the repository's address only when ``repository.url`` has one."""
    root = Path(app.srcdir).parent
    config["mathjax_path"] = MATHJAX
    theme = config["html_theme_options"]
    if theme.get("repository_url"):
        theme.update({button: True for button in SOURCE_BUTTONS})
    else:
        theme["launch_buttons"] = {}
    # the pages about migcore are about this checkout, whatever else is installed
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"


def run_notebooks(app: Sphinx, config: Config) -> None:
    """Execute what is stale; on failure, or while another build is at work here, one line each, and exit status 1."""
    root = Path(app.srcdir).parent
    try:
        app.paperbook_lock = only_build(root)  # type: ignore[attr-defined]  # held until this process ends
        failures = run_book(root, Settings.from_environment(), logger.info)
    except BookError as error:
        failures = [str(error)]
    if failures:
        for line in failures:
            logger.error(line)
        raise SystemExit(1)  # Jupyter Book turns an Exception into a page of traceback


def only_build(root: Path) -> FileLock:
    """The lock of a book's output, which two builds would write into each other's.

    Raises:
        BookError: another process holds it.
    """
    (root / "_build").mkdir(exist_ok=True)
    lock = FileLock(root / "_build" / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BookError("another build of this book is at work; start again when it has ended") from None
    return lock


def tidy_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read in an editor; here they become what reStructuredText asks for.

    A list gets the blank line above it that it must have, and ``|x|`` and ``name_`` lose their meaning as markup. A
    text that napoleon would cut at its first colon, to take what is before it for a type, gets :data:`NO_TYPE` in
    front. Of the command line there is what each command's ``--help`` says.
    """
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, NO_TYPE)
    if name == "migcore.cli":
        lines += command_help()
        return
    tidy: list[str] = []
    for line in lines:
        if tidy and re.fullmatch(r" *(Returns|Yields):", tidy[-1]):
            tidy.append(re.sub(r"\S.*", "", line) + NO_TYPE)
        item = re.match(r" *[*-] ", line)
        if item and tidy and tidy[-1].strip() and not re.match(r" *[*-] |" + " " * item.end() + r"\S", tidy[-1]):
            tidy.append("")
        line = re.sub(r"(?<=: )[A-Za-z]\.(?!\w)", r"\\\g<0>", line)  # "V." alone would number an empty list
        parts = re.split(r"(``.*?``|`[^`]*`)", line)
        parts[::2] = [re.sub(r"(?<=\w)_(?![\w`])|\|", r"\\\g<0>", part) for part in parts[::2]]
        tidy.append("".join(parts))
    lines[:] = tidy


def types_behind_names(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The type of a field goes behind its name, where napoleon puts it on a line of its own below the text."""
    tidy: list[str] = []
    options_at = 0
    for line in lines:
        if line.startswith(".. attribute::"):
            options_at = len(tidy) + 1
        if options_at and line.startswith("   :type: "):
            tidy.insert(options_at, line)
        else:
            tidy.append(line)
    lines[:] = tidy


class OneSignature(FunctionDocumenter):
    """A function with overloads is shown with the signature that its text explains, not once for each of them."""

    def format_signature(self, **kwargs: Any) -> str:
        if self.analyzer:
            self.analyzer.overloads.clear()
        return super().format_signature(**kwargs)


def command_help() -> list[str]:
    """What ``migcore COMMAND --help`` says, as reStructuredText."""
    from migcore import cli

    lines = []
    for words in [[command] for command in cli.COMMANDS] + [["runs", action] for action in ("record", "pack", "merge")]:
        told = io.StringIO()
        with redirect_stdout(told), suppress(SystemExit), patch.dict(os.environ, COLUMNS="80"):
            cli.main([*words, "--help"])
        text = re.sub("\x1b\\[[0-9;]*m", "", told.getvalue()).strip()
        lines += ["", f"``migcore {' '.join(words)}``", "", ".. code-block:: text", ""]
        for line in text.splitlines():  # usage and description come in one line, however long
            indent = "    " if line.startswith("usage:") else ""
            folded = [line] if line[:1] == " " else wrap(line, 78, subsequent_indent=indent, break_on_hyphens=False)
            lines += [f"    {part}".rstrip() for part in folded or [""]]
    return [*lines, ""]


def repair_context(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Point buttons at the committed files, and drop inline scripts that stand twice (sphinx-thebe's)."""
    if pagename.startswith("notebooks/"):
        for button in _buttons(context.get("header_buttons", [])):
            kind = ".py" if button.get("label") == "source-edit-button" else ".ipynb"
            if "url" in button and button["url"].startswith("http"):
                button["url"] = button["url"].replace(f"book/{pagename}.ipynb", f"{pagename}{kind}")
    seen: set[str] = set()
    scripts = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            scripts.append(script)
        if body is not None:
            seen.add(body)
    context["script_files"] = scripts


def _buttons(buttons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [b for button in buttons for b in (button, *_buttons(button.get("buttons", [])))]


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """The one script that renders maths as SVG, and the TeX macros it loads when a page uses them."""
    if error is not None or app.builder.format != "html":
        return
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("sphinx-mathjax-offline is not installed: run `make book`")
    bundled = Path(spec.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    extensions = Path("input", "tex", "extensions")
    if not (target / extensions).is_dir():
        shutil.copytree(bundled / extensions, target / extensions)
        shutil.copy2(bundled / "tex-svg.js", target / "tex-svg.js")
