"""The page of one scored folder: what was measured on how many items, and pictures of the worst, best and others.

One HTML file with its pictures inside: no script, no network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from visdyn.evaluation.metrics.registry import Metric, metric, metrics
from visdyn.evaluation.score import ScoredFolder
from visdyn.evaluation.systems.baselines import BASELINES
from visdyn.images import ImageRef, load

SIDE = 176  # pixels of a picture on the page
RANKED_BY = ("score", "l1_paper", "l1")  # the first that has values orders the pictures
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:74rem;padding:0 1rem;color:#1b1f24}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}.n{font-size:1.05rem}
.scroll{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.25rem .7rem;text-align:right;white-space:nowrap;
border-bottom:1px solid #d9dee4}td:first-child,th:first-child{text-align:left;position:sticky;left:0;background:#fff}
small{color:#57606a}.items{display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:1rem}
figure{margin:0}.trio{display:grid;grid-template-columns:repeat(3,1fr);gap:4px}
img{width:100%;image-rendering:pixelated;background:#eee}
figcaption{font-size:.85rem;overflow-wrap:anywhere}.none{background:#eee;aspect-ratio:1}
"""


def write_card(scored: ScoredFolder, path: str | Path, pictures: int = 6) -> Path:
    """Write the page of a scored folder.

    Args:
        pictures: items in each row (worst, best, evenly spread).
    """
    share = f"n = {len(scored.items)} of {scored.expected} items"
    if len(scored.items) < scored.expected:
        share += f" ({scored.expected - len(scored.items)} without an image; every row is over the same items)"
    parts = [
        f"<h1>{escape(scored.name)}</h1><p class=n>{escape(scored.bench.name)}: <b>{share}</b></p>",
        *(f"<p><small>{escape(note)}</small></p>" for note in scored.notes),
        "<h2>Scores</h2><div class=scroll>", *_table(scored), "</div>",
        "<p><small>mean, with the 95 % interval over items below; copy, oracle (the target), shuffled (another item's "
        "target), blend and blurred are no models: what a metric gives them it gives for as much.</small></p>",
        *_pictures(scored, pictures),
        *_missing(scored.tables["quarantine"]),
    ]  # fmt: skip
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    title = f"<title>{escape(scored.name)}</title><style>{STYLE}</style>"
    page = f"{head}{title}<body>{''.join(parts)}</body></html>\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")
    return Path(path)


def _table(scored: ScoredFolder) -> Iterator[str]:
    board = scored.tables["leaderboard"]
    systems = [scored.name, *(name for name in BASELINES if name in set(board["system"]))]
    yield "<table><tr><th>metric</th>" + "".join(f"<th>{escape(name)}</th>" for name in systems) + "</tr>"
    for label, group in board.groupby("metric", sort=False):
        entry = metric(label.partition(" ")[0], scored.bench.name)
        rows = group.set_index("system")
        if scored.name not in rows.index:
            continue
        way = "more is better" if entry.higher_is_better else "less is better"
        name = f"{escape(entry.printed_as)} <small>{escape(label.partition(' ')[2])} {way}</small>"
        yield f"<tr><td>{name}</td>" + "".join(_cell(rows, system) for system in systems) + "</tr>"
    yield "</table>"


def _cell(rows: pd.DataFrame, system: str) -> str:
    if system not in rows.index:
        return "<td></td>"
    row = rows.loc[system]
    interval = f"<br><small>{row['low']:.3f} to {row['high']:.3f}, n = {int(row['n'])}</small>"
    return f"<td>{row['mean']:.3f}{interval}</td>"


def _pictures(scored: ScoredFolder, count: int) -> Iterator[str]:
    entry, values = _ranking(scored)
    if entry is None or not count:
        return
    order = values.sort_values(ascending=not entry.higher_is_better, kind="stable").index.tolist()  # best first
    spread = [order[place] for place in dict.fromkeys(np.linspace(0, len(order) - 1, count).round().astype(int))]
    for title, rows in (("Worst", order[::-1][:count]), ("Best", order[:count]), ("From best to worst", spread)):
        yield f"<h2>{title} by {escape(entry.printed_as)}</h2><div class=items>"
        for row in rows:
            yield _item(scored, row, f"{entry.printed_as} {values[row]:.3f}")
        yield "</div>"


def _ranking(scored: ScoredFolder) -> tuple[Metric | None, pd.Series]:
    """Return the metric that orders the pictures, and its value by the place of the item (of the forward image)."""
    request = next(iter(scored.own.images))
    scores = scored.tables["scores"]
    own = scores[(scores["system"] == scored.name) & scores["value"].notna()]
    if "direction" in own:
        own = own[own["direction"] == request.direction]
    places = {(scored.bench.subset(item), item.id): row for row, item in enumerate(scored.items)}
    by_id = {item.id: row for row, item in enumerate(scored.items)}
    for entry in sorted(metrics(scored.bench.name), key=lambda one: one.name not in RANKED_BY):
        rows = own[own["metric"] == entry.name]
        subsets = rows["subset"] if "subset" in rows else [None] * len(rows)
        found = [places.get(key, by_id.get(key[1])) for key in zip(subsets, rows["id"], strict=True)]
        if found:
            return entry, pd.Series(rows["value"].to_numpy(float), found).groupby(level=0).mean()
    return None, pd.Series(dtype=float)


def _item(scored: ScoredFolder, row: int, value: str) -> str:
    request, refs = next(iter(scored.own.images.items()))
    half = scored.bench.transition(scored.items[row], request)
    shown = (("before", half.source), (scored.name, refs[row]), ("target", half.target))
    trio = "".join(f"<div>{_picture(ref, label)}<small>{escape(label)}</small></div>" for label, ref in shown)
    name = f"{scored.bench.subset(scored.items[row])}/{scored.items[row].id}"
    caption = f"{escape(half.action)}<br><small>{escape(name)}, {escape(value)}</small>"
    return f"<figure><div class=trio>{trio}</div><figcaption>{caption}</figcaption></figure>"


def _picture(ref: ImageRef | None, label: str) -> str:
    if ref is None:
        return "<div class=none></div>"
    image = load(ref).copy()
    image.thumbnail((SIDE * 2, SIDE * 2), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small = max(image.size) <= SIDE  # a small picture is shown by its pixels, so it stays exact
    image.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 88}))
    kind = "png" if small else "jpeg"
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{escape(label, quote=True)}' src='data:image/{kind};base64,{encoded}'>"


def _missing(table: pd.DataFrame) -> Iterator[str]:
    if table.empty:
        return
    yield f"<h2>Set aside: {len(table)}</h2><ul>"
    for item, reason in table.head(50).itertuples(index=False):
        yield f"<li>{escape(item)}: <small>{escape(reason)}</small></li>"
    if len(table) > 50:
        yield f"<li>and {len(table) - 50} more, in quarantine.csv</li>"
    yield "</ul>"
