"""The record of a run: the executed notebook without its timings, its HTML, and the timings beside them.

papermill writes start, end and duration into the notebook and into each cell; with them no two runs would hash alike.
They move to `.visdyn/timings/<stage>.json`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from visdyn.paths import repository_root, without_folders, write_atomically

LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGETS = re.compile(r"application/vnd\.jupyter\.widget-")  # random names, and nothing to see without a kernel
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
_CELL_FILE = re.compile(r"[^\s\"'(\0]*/ipykernel_\d+/\d+\.py")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def scrub(notebook: nbformat.NotebookNode, folders: Sequence[str] = ()) -> dict[str, Any]:
    """Take from an executed notebook, in place, what differs between two equal runs; return the timings taken.

    Args:
        folders: absolute, of which texts name only what lies in them, besides this checkout and this environment.
    """
    everywhere = (*folders, str(repository_root()), sys.prefix)
    notebook.metadata.pop("widgets", None)
    timings = {"notebook": _keep_times(notebook.metadata.pop("papermill", {})), "cells": []}
    notebook.metadata["kernelspec"], notebook.metadata["language_info"] = dict(KERNEL), dict(LANGUAGE)
    for index, cell in enumerate(notebook.cells):
        taken = _keep_times(cell.metadata.pop("papermill", {}))
        cell.metadata.pop("execution", None)
        cell["id"] = f"cell-{index:02d}"  # papermill gives the cells it adds a random one
        if "outputs" in cell:
            shown = (one for one in cell["outputs"] if not any(map(WIDGETS.match, one.get("data", {}))))
            cell["outputs"] = _join_streams(list(shown))
            for output in cell["outputs"]:
                _scrub_output(output, everywhere)
        timings["cells"].append({"index": index, **taken})
    return timings


def write_record(path: Path, timings_path: Path, usage: dict[str, float], folders: Sequence[str] = ()) -> None:
    """Scrub the executed notebook at `path`, write its HTML beside it and its timings to `timings_path`."""
    notebook = nbformat.read(path, as_version=4)
    timings = scrub(notebook, folders) | {"usage": usage}
    write_atomically(path, f"{nbformat.writes(notebook)}\n".encode())
    write_atomically(path.with_suffix(".html"), to_html(notebook, path.stem).encode())
    timings_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(timings_path, f"{json.dumps(timings, indent=1)}\n".encode())


def to_html(notebook: nbformat.NotebookNode, title: str) -> str:
    """Return the notebook as one HTML page that fetches nothing from the network."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="", mermaid_layout_elk_js_url=""
    )
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return body


def first_error(path: Path) -> str:
    """Return `name: message` of the first error in an executed notebook, or an empty string."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return _COLOUR.sub("", f"{output.ename}: {output.evalue}")
    return ""


def _keep_times(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in ("start_time", "end_time", "duration", "status") if name in metadata}


def _join_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join a cell's pieces of stdout and of stderr, and put them first: how they were cut and mixed is chance."""
    streams: dict[str, nbformat.NotebookNode] = {}
    others = []
    for output in outputs:
        if output.output_type != "stream":
            others.append(output)
        elif output.name in streams:
            streams[output.name]["text"] += output.text
        else:
            streams[output.name] = output
    return [streams[name] for name in sorted(streams)] + others


def _scrub_output(output: nbformat.NotebookNode, folders: Sequence[str]) -> None:
    """Scrub whatever of an output is text: streams, tables, errors with their tracebacks; images are base64."""

    def change(text: str) -> str:
        text = _COLOUR.sub(lambda code: f"{code[0]}\0", text)  # a colour's last letter is no part of the path behind it
        text = _CELL_FILE.sub("cell.py", without_folders(text, folders)).replace("\0", "")
        return _ADDRESS.sub("at 0x", text)

    for name in ("text", "evalue", "traceback"):
        if name in output:
            output[name] = _change_texts(output[name], change)
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/") or kind == "image/svg+xml":
            output["data"][kind] = _change_texts(value, change)


def _change_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _change_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_change_texts(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value
