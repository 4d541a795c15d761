"""A progress bar under a notebook's cell for runs in the making, wherever they are made.

On a terminal a training shows its own bar. In a notebook it runs in another process, or has no widgets to draw one.
But every run leaves a checkpoint after each epoch, and those can be counted from outside.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from migcore.resume import Epochs, epochs_made

INTERVAL = 1.0
"""Seconds between two looks."""


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


@contextlib.contextmanager
def watched(checkpoints: Mapping[str, Path]) -> Iterator[None]:
    """While the body runs in a notebook, show how many epochs the named runs have made; elsewhere do nothing.

    Args:
        checkpoints: by the runs' names, where each keeps its checkpoints; the folders need not exist yet.
    """
    if not in_notebook():
        yield
        return
    ended = threading.Event()
    bar = tqdm(desc=", ".join(checkpoints), file=sys.stderr, bar_format="{desc}: {elapsed}")
    thread = threading.Thread(target=_follow, args=(bar, checkpoints, ended), daemon=True)
    thread.start()
    whole = False
    try:
        yield
        whole = True
    finally:
        ended.set()
        thread.join()
        if whole and bar.total:  # the last checkpoints may have gone between two looks
            bar.n = bar.total
            bar.refresh()
        bar.close()


def _follow(bar: tqdm, checkpoints: Mapping[str, Path], ended: threading.Event) -> None:
    latest: dict[str, Epochs] = {}  # a run that is done has no checkpoints any more
    while True:
        last = ended.wait(INTERVAL)
        for name, folder in checkpoints.items():
            found = epochs_made(folder)
            if found is not None:
                latest[name] = found
        if latest:
            bar.bar_format = "{desc}: {n_fmt}/{total_fmt} epochs |{bar:24}| {elapsed}{postfix}"
            bar.total = sum(each.planned for each in latest.values())
            bar.n = sum(each.made for each in latest.values())
            bar.set_postfix({name: f"loss {each.loss:.2f}" for name, each in latest.items()}, refresh=False)
        bar.refresh()
        if last:
            return
