"""Pictures to leaf through: a slider over still pictures that works without network, mouse or colour.

All pictures are in the page; a few lines of script show the one that the slider is at. Without script the first is
seen; the book's pages print all of them, or, of what plays, the one that is seen. With a keyboard the arrow keys leaf,
and a screen reader says each picture's words.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from matplotlib.image import imsave

from migcore.errors import DataError

_STYLE = "width: 100%; height: auto; image-rendering: pixelated"
_ROW = "display: flex; column-gap: 0.75rem"
_CONTROLS = "flex-wrap: wrap; align-items: center; margin-top: 0.75rem"
_SCRIPT = """
(function () {
  const box = document.getElementById("ID"), range = box.querySelector("input"), out = box.querySelector("output");
  const pictures = box.querySelectorAll("img"), button = box.querySelector("button");
  function show() {
    pictures.forEach((picture, i) => { picture.hidden = i != range.value; });
    out.textContent = pictures[range.value].alt;
    range.setAttribute("aria-valuetext", out.textContent);
  }
  range.addEventListener("input", show);
  if (button) {
    let timer = null;
    button.addEventListener("click", function () {
      button.setAttribute("aria-pressed", String(timer === null));
      if (timer !== null) { clearInterval(timer); timer = null; return; }
      timer = setInterval(function () { range.value = (Number(range.value) + 1) % pictures.length; show(); }, PAUSE);
    });
  }
})();
"""


def slider(
    pictures: Sequence[np.ndarray], words: Sequence[str], *, label: str, fps: float = 0.0, titles: Sequence[str] = ()
) -> HTML:
    """A slider over pictures.

    Args:
        pictures: [H, W, 3] or [H, W, 4] uint8, all of one size; shown as wide as the page allows.
        words: what each shows; said by screen readers, and under it.
        label: of the slider.
        fps: above 0, there is a button that plays them, so many a second. Nothing moves before it is pressed.
        titles: of the parts of each picture, which are equally wide and stand side by side; above them.

    Raises:
        DataError: there are no pictures, or they, their sizes and the words do not go together.
    """
    if not pictures or len(pictures) != len(words) or len({picture.shape for picture in pictures}) != 1:
        shapes = sorted({str(list(picture.shape)) for picture in pictures})
        raise DataError(
            f"{len(pictures)} pictures of shapes {', '.join(shapes)} with {len(words)} texts",
            hint="give one text for each picture, and pictures of one size",
        )
    if pictures[0].ndim != 3 or pictures[0].shape[2] not in (3, 4) or pictures[0].dtype != np.uint8:
        raise DataError(
            f"pictures of shape {list(pictures[0].shape)} and type {pictures[0].dtype}", hint="uint8 [H, W, 3 or 4]"
        )
    files = [_png(picture) for picture in pictures]
    name = f"slider-{hashlib.sha256(b''.join([*files, label.encode()])).hexdigest()[:12]}"
    height, width = pictures[0].shape[:2]
    images = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(file).decode()}" alt="{html.escape(text)}"'
        f' width="{width}" height="{height}" style="{_STYLE}"{" hidden" if i else ""}>'
        for i, (file, text) in enumerate(zip(files, words, strict=True))
    )
    button = '<button type="button" aria-pressed="false">play</button>' if fps > 0 else ""
    heads = "".join(f'<div style="flex: 1 1 0; min-width: 0">{html.escape(title)}</div>' for title in titles)
    heads = f'<div style="{_ROW}; align-items: end; text-align: center">{heads}</div>' if titles else ""
    first = html.escape(words[0])
    script = _SCRIPT.replace("ID", name).replace("PAUSE", f"{1000 / fps:.0f}" if fps > 0 else "0")
    return HTML(
        f'<div id="{name}" class="migcore-slider">{heads}{images}<div style="{_ROW}; {_CONTROLS}">{button}'
        f'<input type="range" min="0" max="{len(pictures) - 1}" value="0" aria-label="{html.escape(label)}"'
        f' aria-valuetext="{first}" style="flex: 1; max-width: none">'
        f'<output style="flex: 1 0 100%">{first}</output></div></div>'
        f"<script>{script}</script>"
    )


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    imsave(out, np.ascontiguousarray(picture), format="png")
    return out.getvalue()
