"""The record of a run: the executed notebook without its timings, its HTML, and the timings beside them.

papermill writes start, end and duration into the notebook and into each cell; with them no two runs would hash alike.
They move to `.visdyn/timings/<stage>.json`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from visdyn.paths import repository_root, write_atomically

LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def scrub(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Take from an executed notebook, in place, what differs between two equal runs; return the timings taken."""
    timings = {"notebook": _keep_times(notebook.metadata.pop("papermill", {})), "cells": []}
    notebook.metadata["kernelspec"], notebook.metadata["language_info"] = dict(KERNEL), dict(LANGUAGE)
    for index, cell in enumerate(notebook.cells):
        taken = _keep_times(cell.metadata.pop("papermill", {}))
        cell.metadata.pop("execution", None)
        cell["id"] = f"cell-{index:02d}"  # papermill gives the cells it adds a random one
        if "outputs" in cell:
            cell["outputs"] = _join_streams(cell["outputs"])
            for output in cell["outputs"]:
                _scrub_output(output)
        timings["cells"].append({"index": index, **taken})
    return timings


def write_record(path: Path, timings_path: Path, usage: dict[str, float]) -> None:
    """Scrub the executed notebook at `path`, write its HTML beside it and its timings to `timings_path`."""
    notebook = nbformat.read(path, as_version=4)
    timings = scrub(notebook) | {"usage": usage}
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


def _scrub_output(output: nbformat.NotebookNode) -> None:
    if "text" in output:
        output["text"] = _scrub_text(output["text"])
    if "text/plain" in output.get("data", {}):
        output["data"]["text/plain"] = _scrub_text(output["data"]["text/plain"])


def _scrub_text(text: str) -> str:
    """Take out memory addresses and the folders of this checkout and of this environment."""
    for folder in sorted((str(repository_root()), sys.prefix), key=len, reverse=True):  # one may lie in the other
        text = text.replace(f"{folder}/", "")
    return _ADDRESS.sub("at 0x", text)
