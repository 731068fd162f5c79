"""The systems that the parameters name: image editors, editors behind an endpoint, folders made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from visdyn.endpoint.client import EndpointSettings, EndpointStoppedError
from visdyn.evaluation.systems.outputs import OutputFolder, Wanted, code_digest, model_digest, produce
from visdyn.models.editors import load_editor
from visdyn.models.editors.diffusers_editors import DiffusersEditor
from visdyn.models.editors.endpoint_editor import ApiEditor
from visdyn.models.editors.protocol import ImageEditor
from visdyn.params.evaluation import ApiEditorEntry, EditorEntry
from visdyn.plugins import PluginError

# What a missing model, folder, package or network raises: the system is then left out, and systems.csv says why.
UNAVAILABLE = (FileNotFoundError, ImportError, OSError, EndpointStoppedError, PluginError)
_CODE = ("models/editors/diffusers_editors.py", "models/editors/bagel_editor.py", "models/bagel")


@dataclass
class EditorSystem:
    """One editor of the parameters, loaded when the first image is missing.

    Attributes:
        name, origin, model: as in systems.csv.
        folder: its images.
        chunk: images that are made together.
        note: why it stopped; empty while it has not.
    """

    name: str
    origin: str
    model: str
    folder: OutputFolder
    chunk: int
    load: Callable[[], ImageEditor]
    steps: int | None = None
    note: str = ""
    _editor: ImageEditor | None = field(default=None, repr=False)

    def images(self, wanted: Sequence[Wanted]) -> list[Path | None]:
        """Make what is missing and return every image's path; None where the editor cannot make it."""
        if self.note:
            return self.folder.found(wanted)
        try:
            return produce(self.folder, wanted, self._make, self.chunk)
        except UNAVAILABLE as error:
            self.note = f"not run: {error}"
            print(f"{self.name}: {self.note}")
            return self.folder.found(wanted)

    def release(self) -> None:
        """Free the editor's memory, for the next one's weights."""
        if self._editor is not None:
            import torch

            self._editor = None
            torch.cuda.empty_cache()

    def _make(self, wanted: list[Wanted]) -> Sequence[np.ndarray | None]:
        if self._editor is None:
            self._editor = self.load()
            if self.origin == "diffusers" and not isinstance(self._editor, DiffusersEditor):
                self.origin = "baseline"  # a BAGEL: only loading tells
        sources, prompts = [one.source for one in wanted], [one.prompt for one in wanted]
        return self._editor.edit(sources, prompts, [one.seed for one in wanted], self.steps)


def local_editor(entry: EditorEntry, reference: str, outputs: Path, seed: int, device: str) -> EditorSystem:
    """Return an editor that runs on this machine, not loaded yet.

    Args:
        entry: of a section's `editors`.
        reference: its model as a path or hub id.
        outputs: folder under which every system's images lie.
        seed: of the run.
        device: `cpu` or `cuda`.
    """
    settings = {name: getattr(entry, name) for name in ("preset", "steps", "size", "dtype", "call")}
    recipe = {"model": model_digest(reference), "code": code_digest(*_CODE), **settings}
    recipe |= {"think": True} if entry.think else {}
    folder = OutputFolder.named(outputs, entry.name, seed, recipe)
    given = {"preset": entry.preset, "size": entry.size, "offload": entry.offload, "call": entry.call}
    given |= {"think": entry.think}
    usual = {"preset": "", "size": "native", "offload": False, "call": {}, "think": False}
    options = {name: value for name, value in given.items() if value != usual[name]}

    def load() -> ImageEditor:
        return load_editor(reference, device=device, dtype=entry.dtype or None, **options)

    steps = entry.steps or None
    return EditorSystem(entry.name, "diffusers", entry.model, folder, entry.batch_size, load, steps)


def remote_editor(entry: ApiEditorEntry, outputs: Path, seed: int) -> EditorSystem:
    """Return an editor behind an endpoint; the arguments are those of `local_editor`."""
    fields = entry.fields | ({"size": entry.size} if entry.size else {})
    recipe = {"model": entry.model, "base_url": entry.base_url, "fields": fields}
    folder = OutputFolder.named(outputs, entry.name, seed, recipe)

    def load() -> ImageEditor:
        settings = EndpointSettings(
            entry.base_url,
            entry.model,
            entry.key_variable,
            concurrency=entry.concurrency,
            requests_per_minute=entry.requests_per_minute or None,
            timeout_s=entry.timeout_s,
            allow_http=entry.allow_http,
        )
        folder.root.mkdir(parents=True, exist_ok=True)
        return ApiEditor(settings, fields, entry.price_per_image, folder.root / "requests.jsonl")

    return EditorSystem(entry.name, "api", entry.model, folder, entry.concurrency, load)
