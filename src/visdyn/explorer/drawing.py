"""Pictures, bars and strips as HTML: what both faces of the explorer show, without a file and without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import matplotlib
import numpy as np
from PIL import Image

from visdyn.explorer.asks import SORTS, Ranked, TokenMap
from visdyn.images import ImageRef, load

SIDE, _BAR_LENGTH = 150, 120  # CSS pixels of a picture, of the longest bar
_MOST_PIXELS = 512  # of a picture's longer side in the page
_INK, _MUTED, _BAR, _PICKED, _WARN = "#222222", "#6b6b6b", "#0173b2", "#de8f05", "#8a4b00"


def encode_png(image: ImageRef | np.ndarray) -> str:
    """Return an image as the `src` of an `<img>`; large ones are shrunk, an RGBA array (H, W, 4) keeps its opacity."""
    rgba = isinstance(image, np.ndarray) and image.shape[-1] == 4
    picture = Image.fromarray(image, "RGBA") if rgba else load(image).copy()
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def figure(
    image: ImageRef,
    title: str,
    note: str = "",
    *,
    picked: bool = False,
    side: int = SIDE,
    overlay: np.ndarray | None = None,
    opacity: float = 0.6,
) -> str:
    """Return a picture with its title and a note; `picked` frames it.

    Args:
        overlay: RGBA uint8 (h, w, 4), laid over the picture at `opacity`.
    """
    frame = f"outline:4px solid {_PICKED}" if picked else "outline:1px solid #d0d0d0"
    style = f"width:{side}px;height:{side}px;object-fit:contain;image-rendering:pixelated;display:block;{frame}"
    above = ""
    if overlay is not None:
        over = f"position:absolute;left:0;top:0;width:{side}px;height:{side}px;image-rendering:pixelated"
        above = f'<img alt="" src="{encode_png(overlay)}" style="{over};opacity:{opacity:.2f}">'
    mark = f'<b style="color:{_PICKED}">picked</b> ' if picked else ""
    return (
        f'<figure style="margin:4px 6px;width:{side}px"><div style="position:relative">'
        f'<img alt="{escape(title)}" src="{encode_png(image)}" style="{style}">{above}</div>'
        f'<figcaption style="margin-top:5px;font-size:12px;line-height:1.35;color:{_INK}">{escape(title)}'
        f'<div style="color:{_MUTED}">{mark}{escape(note)}</div></figcaption></figure>'
    )


def thumbnail(image: ImageRef, title: str, side: int) -> str:
    """Return a picture without words below it; its title comes up under the pointer."""
    style = f"width:{side}px;height:{side}px;object-fit:contain;image-rendering:pixelated;margin:0 2px"
    return f'<img alt="{escape(title)}" title="{escape(title)}" src="{encode_png(image)}" style="{style}">'


def row(figures: Iterable[str]) -> str:
    """Return figures side by side, on as many lines as they need."""
    return f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start">{"".join(figures)}</div>'


def sentence(text: str, warning: bool = False) -> str:
    """Return a line of text; a warning is marked by a sign, not by its colour alone."""
    style = f"color:{_WARN};font-weight:600" if warning else f"color:{_INK}"
    sign = "&#9888; " if warning else ""
    return f'<div style="font-size:13px;line-height:1.35;margin:2px 6px;{style}">{sign}{escape(text)}</div>'


def heading(title: str, text: str) -> str:
    """Return a heading with a text behind it, on one line."""
    return (
        f'<h2 style="display:inline-block;font-size:19px;margin:0 6px">{escape(title)}</h2>'
        f'<span style="font-size:13px;color:{_INK}">{escape(text)}</span>'
    )


def bars(rows: Sequence[tuple[str, float, str, bool]], low: float | None = None) -> str:
    """Return horizontal bars of (label, value, text, marked).

    Args:
        low: where a bar has no length; None takes a little below the smallest value. An unknown value has no bar.
    """
    known = [value for _, value, _, _ in rows if value == value]
    start = (min(known) - 0.1 * (max(known) - min(known) or 1.0) if low is None else low) if known else 0.0
    span = max((max(known) - start) if known else 0.0, 1e-12)
    wide = max((7 * len(label) for label, _, _, _ in rows), default=0) + 12  # pixels of the labels
    lines = []
    for label, value, text, marked in rows:
        share = 0.0 if value != value else max(0.0, (value - start) / span)
        colour = _PICKED if marked else _BAR
        lines.append(
            f'<div style="display:flex;align-items:center;font-size:12px;line-height:1.35;margin:2px 6px;color:{_INK}">'
            f'<span style="width:{wide}px;text-align:right;padding-right:8px">{escape(label)}</span>'
            f'<span style="width:{_BAR_LENGTH}px;background:#eeeeee"><span style="display:block;height:12px;'
            f'width:{_BAR_LENGTH * share:.0f}px;background:{colour}"></span></span>'
            f'<span style="padding-left:8px">{escape(text)}</span></div>'
        )
    return "".join(lines)


def candidates(ranked: Ranked, sort: str, side: int = SIDE) -> str:
    """Return K candidates in their order, the IDM's choice marked, and bars of what each verifier says."""
    pictures, columns = [], []
    for one in ranked.table.itertuples():
        judged = "judge unknown" if one.judge != one.judge else f"judge {one.judge:.1f}{' ✓' if one.success else ''}"
        note = f"IDM {one.idm:.2f}, own {one.likelihood:.3f}, {judged}"
        picture = ranked.images[one.candidate]
        pictures.append(figure(picture, f"number {one.candidate + 1}", note, picked=one.picked, side=side))
    for column, label in SORTS.items():
        if ranked.table[column].notna().any():
            lines = [(f"number {one.candidate + 1}", getattr(one, column), f"{getattr(one, column):.3g}", one.picked)
                     for one in ranked.table.itertuples()]  # fmt: skip
            head = f"<b>{escape(label)}{' (sorted by it)' if column == sort else ''}</b>"
            columns.append(f'<div style="font-size:12px">{head}{bars(lines, 0.0 if column == "judge" else None)}</div>')
    return row(pictures) + row(columns)


def paint(tokens: TokenMap) -> np.ndarray:
    """Return a token map as RGBA uint8 (h, w, 4): blue to yellow, or purple to orange around 0 where it diverges."""
    values = tokens.values
    if tokens.diverging:
        top = max(float(np.abs(values).max()), 1e-9)
        shares, colours = (values + top) / (2 * top), "PuOr_r"
    else:
        low, top = float(values.min()), float(values.max())
        shares, colours = (values - low) / max(top - low, 1e-9), "cividis"
    return matplotlib.colormaps[colours](shares, bytes=True)


def legend(tokens: TokenMap) -> str:
    """Return the colours of a token map with the numbers at their ends."""
    values = tokens.values
    low, high = (-np.abs(values).max(), np.abs(values).max()) if tokens.diverging else (values.min(), values.max())
    ramp = matplotlib.colormaps["PuOr_r" if tokens.diverging else "cividis"](np.linspace(0, 1, 9), bytes=True)
    stops = ",".join(f"rgb({red},{green},{blue})" for red, green, blue, _ in ramp)
    return (
        f'<div style="font-size:12px;margin:2px 6px">{escape(tokens.title)}: {low:.3g} '
        f'<span style="display:inline-block;width:140px;height:12px;background:linear-gradient(to right,{stops})">'
        f"</span> {high:.3g}. {escape(tokens.said)}</div>"
    )


def code(text: str) -> str:
    """Return code that a button copies."""
    copy = (
        "navigator.clipboard.writeText(this.parentElement.querySelector('pre').textContent);this.textContent='copied'"
    )
    return (
        '<details style="margin:6px;font-size:12px"><summary>Copy as code</summary>'
        f'<button type="button" onclick="{copy}">copy</button>'
        f'<pre style="background:#f5f5f5;padding:8px;overflow-x:auto">{escape(text)}</pre></details>'
    )
