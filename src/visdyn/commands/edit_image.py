"""`visdyn edit MODEL IMAGE ACTION`: perform an action on an image, choose among K by an IDM, and undo it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visdyn.inference.verification import best_of_k
from visdyn.models import TOKEN_MODELS, load_model
from visdyn.models.checkpoints import locate
from visdyn.models.editors import load_editor
from visdyn.models.editors.protocol import ImageEditor, SamplingEditor
from visdyn.models.protocols import role_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the edited image, and with `--undo` the one in which the action is undone."""
    options = _make_parser().parse_args(arguments)
    if bool(options.verifier) != (options.best_of > 1):
        raise ValueError("--best-of K and --verifier IDM belong together: the IDM chooses among K images")
    editor = open_editor(options.model, options.device)
    done = _perform_action(editor, options)
    _save_image(done, options.out)
    print(f"{options.action}: {options.out}")
    if options.undo:
        undone = editor.edit([done], [options.undo], [options.seed + 1], options.steps)[0]
        path = options.out.with_stem(f"{options.out.stem}-undone")
        _save_image(undone, path)
        print(f"{options.undo}: {path}")
    return 0


def open_editor(name: str, device: str = "cpu") -> ImageEditor:
    """Open whatever edits: an editor, or a forward-dynamics model, which then samples once for each image.

    Args:
        name: folder, hub id of an editor, or a plug-in (`visdyn.plugins`).
    """
    if Path(name).is_dir() and locate(name).model_type in TOKEN_MODELS:
        return SamplingEditor(load_model(name, "fdp", device=device))
    return load_editor(name, device=device)


def _perform_action(editor: ImageEditor, options: argparse.Namespace) -> np.ndarray:
    if options.best_of <= 1:
        return editor.edit([options.image], [options.action], [options.seed], options.steps)[0]
    if not isinstance(editor, SamplingEditor):
        raise ValueError(f"--best-of samples from a forward-dynamics model, which {options.model} is not")
    verifier = role_of(load_model(options.verifier, device=options.device), "idp")
    generator = torch.Generator().manual_seed(options.seed)
    chosen = best_of_k(editor.model, verifier, options.image, options.action, options.best_of, generator)
    rewards = " ".join(f"{reward:.3f}" for reward in chosen.rewards.tolist())
    print(f"log-likelihoods of the action (nats a token): {rewards}; number {chosen.index + 1} is kept")
    return chosen.image


def _save_image(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(image)).save(path)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn edit", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an editor or a forward-dynamics model: folder, hub id, or my_model.py:MyModel")
    parser.add_argument("image", help="file")
    parser.add_argument("action", help="instruction, such as 'open the drawer'")
    parser.add_argument("--undo", help="instruction that undoes it, performed on the edited image")
    parser.add_argument("--best-of", type=int, default=1, metavar="K", help="images among which --verifier chooses")
    parser.add_argument("--verifier", metavar="IDM", help="an inverse-dynamics model: folder, hub id or plug-in")
    parser.add_argument("--steps", type=int, help="of the sampler; the editor's own by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("edited.png"))
    return parser
