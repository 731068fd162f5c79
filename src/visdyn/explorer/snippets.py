"""What the explorer shows as code that makes it again: plain calls of the kit, to paste into a notebook or a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from visdyn.compute.seeds import item_seed
from visdyn.explorer.asks import CHANGED, DIFFERENCE, WEIGHT, Walk
from visdyn.explorer.opened import EDITOR, OWN, Opened
from visdyn.params.prompts import SENTENCES
from visdyn.params.sampling import Sampling
from visdyn.paths import repository_root
from visdyn.trajectory import Trajectory

_RUN = "# in the repository's root, with the kit's environment\n"


def code_of_arms(opened: Opened, names: Sequence[str], item: Trajectory, action: str, seed: int = 0) -> str:
    """Return code whose `images` are what `asks.draw_arms` draws, by arm."""
    number = opened.seed_of("images", seed)
    lines, imports = [*_item_lines(opened, item, action), "images = {}"], {"from dataclasses import replace"}
    for name in names:
        arm = opened.arms[name]
        if arm.kind == EDITOR:
            imports.add("from visdyn.models.editors import load_editor")
            noise = item_seed(number, item.subset, item.id)
            lines.append(f"editor = load_editor({_place(arm.reference)})")
            lines.append(f"images[{name!r}] = editor.edit([item.source], [item.action], [{noise}])[0]")
            continue
        imports |= {"from visdyn.inference.generation import generate", "from visdyn.models import load_model"}
        lines += _forward_lines(opened, name, opened.image_sampling)
        lines.append(f"images[{name!r}] = generate(forward, [item], 1, seed={number})[0][0, 0]")
    return _join(imports, opened, item, lines)


def code_of_candidates(opened: Opened, name: str, item: Trajectory, action: str, k: int, seed: int = 0) -> str:
    """Return code whose `scored` has the candidates of `asks.draw_candidates`, and `picked` the IDM's choice."""
    number, settings = opened.seed_of("candidates", seed), opened.stage.settings.verification
    imports = {
        "from dataclasses import replace",
        "from visdyn.inference.verification import choose_best, score_candidates",
        "from visdyn.models import load_model",
    }
    lines = [*_item_lines(opened, item, action), *_forward_lines(opened, name, settings.sampling)]
    if settings.decoding != "plain":
        lines.append(f"forward = replace(forward, decoding={settings.decoding!r}, block={settings.block})")
    lines += [
        f'inverse = load_model({_place(opened.idm_reference)}, "idp")',
        f"scored = score_candidates(forward, inverse, [item], {k}, seed={number})",
        "picked = choose_best(scored.inverse[0])",
    ]
    return _join(imports, opened, item, lines)


def code_of_belief(opened: Opened, item: Trajectory) -> str:
    """Return code whose `predicted` and `likelihoods` are what `asks.ask_inverse` says of the item's own images."""
    lines = [
        *_item_lines(opened, item, item.action),
        f"actions = {opened.asked_actions(item)!r}",
        f'idm = load_model({_place(opened.idm_reference)}, "idp")',
        "predicted = idm.predict([item.source], [item.target])[0]",
        "n = len(actions)",
        "likelihoods = idm.log_likelihood([item.source] * n, [item.target] * n, actions)",
    ]
    return _join({"from visdyn.models import load_model"}, opened, item, lines)


def code_of_map(
    opened: Opened, kind: str, name: str, item: Trajectory, action: str, other: str = "", floor: float = 0.0
) -> str:
    """Return code whose `values` is the map of `asks.map_tokens` over the item's own target."""
    lines = [*_item_lines(opened, item, action), *_forward_lines(opened, name, opened.image_sampling)]
    imports = {"from visdyn.models import load_model"}
    lines.append("model = forward.model")
    if kind == WEIGHT:
        imports.add("from visdyn.training.losses import recognition_weights")
        lines += [
            "before, after = (model.vqgan.features(model.pixels([one])) for one in (item.source, item.target))",
            f"values = recognition_weights(before, after, floor={floor}).reshape(before.shape[2:])",
        ]
    elif kind == CHANGED:
        lines.append("values = (model.encode([item.source]) != model.encode([item.target]))[0]")
    else:
        imports.add("from visdyn.explorer.asks import token_log_likelihoods")
        lines.append("values = token_log_likelihoods(model, item.source, item.action, item.target)")
    if kind == DIFFERENCE:
        words = "item.action" if other in opened.arms else repr(other)
        if other in opened.arms:
            lines += [*_forward_lines(opened, other, opened.image_sampling), "model = forward.model"]
        lines.append(f"values = values - token_log_likelihoods(model, item.source, {words}, item.target)")
    return _join(imports, opened, item, lines)


def code_of_walk(walk: Walk, item: Trajectory) -> str:
    """Return code whose `images` are the steps of a walk; of one FDM it is `roll_out`."""
    opened, names = walk.opened, [name for _, name, _ in walk.steps]
    actions = [action for action, _, _ in walk.steps]
    lines, imports = _item_lines(opened, item, item.action), set()
    if not names:
        return _join(imports, opened, item, lines)
    if len(set(names)) == 1 and opened.arms[names[0]].kind != EDITOR:
        imports |= {"from visdyn.inference.rollout import roll_out", "from visdyn.models import load_model"}
        lines += _forward_lines(opened, names[0], opened.image_sampling)
        lines.append(f"images = roll_out(forward, [item.source], [{actions!r}], seed={walk.seed})[0]")
        return _join(imports, opened, item, lines)
    lines.append("image, images = item.source, []")
    for place, (action, name, _) in enumerate(walk.steps):
        arm = opened.arms[name]
        if arm.kind == EDITOR:
            imports.add("from visdyn.models.editors import load_editor")
            noise = item_seed(walk.seed, "rollout", f"0-{place}")
            lines.append(f"editor = load_editor({_place(arm.reference)})")
            lines.append(f"image = editor.edit([image], [{action!r}], [{noise}])[0]")
        else:
            imports |= {"from visdyn.inference.generation import generate", "from visdyn.models import load_model"}
            imports.add("from visdyn.trajectory import Trajectory")
            lines += _forward_lines(opened, name, opened.image_sampling)
            step = f'Trajectory(image, {action!r}, image, "rollout", "0-{place}")'
            lines.append(f"image = generate(forward, [{step}], 1, seed={walk.seed})[0][0, 0]")
        lines.append("images.append(image)")
    return _join(imports, opened, item, lines)


def _item_lines(opened: Opened, item: Trajectory, action: str) -> list[str]:
    if item.subset == OWN:
        target = None if item.target is None else _place(str(item.target))
        return [f"item = Trajectory({_place(str(item.source))}, {action!r}, {target}, {item.subset!r}, {item.id!r})"]
    found = f"one for one in load_bench({_place(str(opened.place.data('aurora')))}, [{item.subset!r}])"
    lines = [f"item = next({found} if one.id == {item.id!r})"]
    return lines if action == item.action else [*lines, f"item = replace(item, action={action!r})"]


def _forward_lines(opened: Opened, name: str, sampling: Sampling) -> list[str]:
    device = "" if opened.stage.device == "cpu" else f", device={opened.stage.device!r}"
    lines = [f'forward = load_model({_place(opened.arms[name].reference)}, "fdp"{device})']
    if opened.stage.settings.prompts != SENTENCES:
        lines[0] = lines[0][:-1] + f", prompts=load_params({opened.stage.profile!r}).prompts)"
    if sampling != Sampling():
        given = ", ".join(f"{key}={value!r}" for key, value in asdict(sampling).items())
        lines.append(f"forward = replace(forward, {given})")
    return lines


def _place(path: str) -> str:
    """Return a path as a literal, from the repository's root where it lies in it."""
    place = Path(path)
    inside = place.is_absolute() and place.is_relative_to(repository_root())
    return repr(str(place.relative_to(repository_root())) if inside else path)


def _join(imports: set[str], opened: Opened, item: Trajectory, lines: list[str]) -> str:
    text = "\n".join(lines)
    needed = set(imports) - {"from dataclasses import replace"}
    needed |= {"from visdyn.trajectory import Trajectory"} if item.subset == OWN else {
        "from visdyn.datasets.aurora import load_bench"
    }  # fmt: skip
    needed |= {"from dataclasses import replace"} if "replace(" in text else set()
    needed |= {"from visdyn.params import load_params"} if "load_params(" in text else set()
    return f"{_RUN}{chr(10).join(sorted(needed))}\n\n{text}\n"
