"""visdyn: a reproducible paper kit for action-grounded visual dynamics.

What a user's script needs stands here by name, and is imported when it is first used:

    import visdyn

    model = visdyn.load_model("leloy/Anole-7b-v0.1-hf")
    table = visdyn.probe(model, visdyn.load_bench("aurora", ["ag"]), seed=0)
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "load_model": "visdyn.models",
    "load_editor": "visdyn.models.editors",
    "load_bench": "visdyn.datasets.aurora",
    "negatives": "visdyn.trajectory",
    "probe": "visdyn.inference.probing",
    "select_keyframes": "visdyn.mining.keyframes",
    "mine_pairs": "visdyn.mining.reversible",
    "stratified_top_k": "visdyn.mining.stratified",
    "recognition_weights": "visdyn.training.losses",
    "best_of_k": "visdyn.inference.verification",
    "do_and_undo": "visdyn.inference.do_undo",
    "score": "visdyn.evaluation.score",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'visdyn' has no attribute {name!r}; it offers {', '.join(_LAZY)}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
