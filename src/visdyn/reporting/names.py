"""How the kit's names and the papers' printed names correspond, and in which order they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable

# subset: name in Tables 2 and 6, name in Tables 3 to 5 (Bootstrapping)
SUBSETS = {
    "magicbrush": ("MagicBrush", "MB"),
    "ag": ("AG", "AG"),
    "something": ("Something", "ST"),
    "whatsup": ("WhatsUp", "WU"),
    "kubric": ("Kubric", "KU"),
}

FDM_SYSTEMS = {
    "zero_shot": "C-ZS",
    "supervised": "C-FT",
    "synthetic_weighted": "C-FDM",
    "copy": "Copy",
    "oracle": "Oracle (target)",
    "shuffled": "Shuffled target",
    "blend": "Blend of source and target",
    "blurred": "Blurred target",
    "tokenizer_ceiling": "Tokenizer ceiling",
    "supervised_weighted": "C-FDM w/o Synth.",
    "synthetic": "C-FDM w/o LW",
    "synthetic_weighted_nofloor": "C-FDM, no weight floor",
    "synthetic_weighted_true": "C-FDM, true labels",
    "weights_permuted": "C-FDM, weights permuted",
    "labels_shuffled": "C-FDM, labels shuffled",
}

# Experiments of `make robust`, and the kept draws of one checkpoint.
EXPERIMENTS = {
    "letter": "C-FDM to the letter: its key-frame rule, no floor",
    "floor_0.25": "C-FDM, floor 0.25",
    "synthetic_same_epochs": "C-FDM w/o LW, as many epochs as C-FT",
    "synthetic_weighted_same_epochs": "C-FDM, as many epochs as C-FT",
    "synthetic_weighted_paper_share": "C-FDM, 12 % of the triplets synthetic",
}

SELECTORS = {
    "idm": "IDM",
    "likelihood": "own likelihood",
    "zero_shot": "zero-shot model",
    "idm_same_labels": "IDM of the FDM's labels",
    "random": "chance",
    "oracle": "oracle",
}

BASELINES = ("Copy", "Oracle", "Shuffled", "Blend", "Blurred")  # how their heads begin in every table
CHAMELEON, OTHER_FAMILIES = "chameleon", ("liquid",)  # a model of another family is called `liquid_<name>` in results

DOUNDO_SYSTEMS = {
    "base": "Bagel",
    "doundo": "Do-Undo",
    "doundo_c": "Do-Undo(c)",
    "copy": "Copy",
    "oracle": "Oracle (ground truth)",
    "shuffled": "Shuffled ground truth",
    "blend": "Blend of source and ground truth",
    "blurred": "Blurred ground truth",
}

NEGATIVES = {
    "random_action": "Rand. Act.",
    "inverse_observation": "Inv. Obs.",
    "copy_observation": "Copy. Obs.",
    "random_observation": "Rand. Obs.",
}

TASKS = {"fdp": "Forward-dynamics Modelling", "idp": "Inverse-dynamics Modelling"}

SEGMENT_SOURCES = {
    "kitchen-train": "kitchen, training",
    "kitchen-test": "kitchen, test",
    "epic-100-validation": "EPIC-100, validation",
    "epic-100-train": "EPIC-100, training",
    "epic-100-test": "EPIC-100, test",
}

IDM_MODELS = {"zero_shot": "Chameleon ZS", "idm": "Chameleon IDM", "idm_same_labels": "IDM on as few labels as the FDM"}

# Judge criteria of Do-Undo and the metrics that may stand for them: an MLLM judge's own names, and our region judge's
# editing success (was it done?) and minimal editing (is the rest kept?). The region judge has no TC and OC.
JUDGE = {
    "IF": ("if", "instruction", "instruction_following", "instruction_fidelity", "editing_success"),
    "IDP": ("idp", "identity", "identity_preservation", "minimal_editing"),
    "TC": ("tc", "temporal", "temporal_coherence"),
    "OC": ("oc", "object", "object_consistency", "objects"),
}

_DATASETS = (("mit", "MIT"), ("moments", "MIT"), ("movements", "MIT"), ("ucf", "UCF-101"), ("kinetics", "Kinetics700"))


def fdm_system(name: str) -> str:
    """Return the printed name of an FDM system; `liquid_supervised_best_of_3` becomes `L-FT, best of 3 by IDM`."""
    if match := re.fullmatch(r"(.+)_best_of_(\d+)(?:_by_(.+))?", name):
        arm, k, selector = match[1], match[2], match[3] or "idm"
        return f"{fdm_system(arm)}, best of {k} by {SELECTORS.get(selector, selector)}"
    if match := re.fullmatch(r"(.+)_draw_(\d+)", name):
        return f"{fdm_system(match[1])}, drawn again ({match[2]})"
    family, plain = split_family(name)
    return _spell_family({**FDM_SYSTEMS, **EXPERIMENTS}.get(plain, plain), family)


def doundo_system(name: str) -> str:
    """Return the printed name of a Do-Undo system; `doundo_c_0.6` becomes `Do-Undo(c), weight 0.6`."""
    if match := re.fullmatch(r"doundo_c_([\d.e-]+)", name):
        return f"{DOUNDO_SYSTEMS['doundo_c']}, weight {match[1]}"
    return DOUNDO_SYSTEMS.get(name, name)


def idm_model(name: str) -> str:
    """Return the printed name of a model that describes actions; `liquid_idm` becomes `Liquid IDM`."""
    family, plain = split_family(name)
    return _spell_family(IDM_MODELS.get(plain, plain), family)


def is_of_family(name: str) -> bool:
    """Tell whether results call a model so that a unified model's family decides how it is printed."""
    plain = re.sub(r"_best_of_\d+(_by_.+)?$", "", name)
    return plain in IDM_MODELS or (plain in FDM_SYSTEMS and not FDM_SYSTEMS[plain].startswith(BASELINES))


def split_family(name: str) -> tuple[str, str]:
    """Return (family, plain name): `liquid_supervised` is (`liquid`, `supervised`), `supervised` is Chameleon's."""
    for family in OTHER_FAMILIES:
        if is_of_family(plain := name.removeprefix(f"{family}_")) and plain != name:
            return family, plain
    return CHAMELEON, name


def _spell_family(printed: str, family: str) -> str:
    if family == CHAMELEON:
        return printed
    spelled = re.sub("^C-", f"{family[0].upper()}-", printed).replace("Chameleon", family.capitalize())
    return spelled if spelled != printed else f"{printed} ({family.capitalize()})"


def spatial_model(name: str) -> str:
    """Return the printed name of a model that was asked spatial questions; the IDM is no column of the paper."""
    return idm_model(name) if split_family(name)[1] == "idm" else fdm_system(name)


def system_order(names: Iterable[str], known: dict[str, str]) -> list[str]:
    """Return names in the order of `known`, unknown ones after them by name and number."""
    rank = {name: position for position, name in enumerate(known)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), _natural_key(name)))


def dataset(name: str) -> str:
    """Return the printed name of a clip dataset (`mit`, `moments_in_time`, `ucf101`, ...), unknown names unchanged."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((printed for start, printed in _DATASETS if plain.startswith(start)), name)


def judge_criterion(metric: str) -> str | None:
    """Return IF, IDP, TC or OC for a metric that is a judge's criterion, else None."""
    plain = metric.lower().removeprefix("judge_")
    return next((short for short, spellings in JUDGE.items() if plain in spellings), None)


def _natural_key(name: str) -> list[tuple[int, str]]:
    # Numbers count by their value: "run 2" stands before "run 10".
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
