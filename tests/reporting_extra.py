"""Made-up results of judges in words, of people, of spatial questions, and about systems; see reporting_results."""

from __future__ import annotations

import numpy as np
import pandas as pd

from visdyn.reporting.results import EVALUATIONS
from visdyn.stages.human_study import COLUMNS as STUDY
from visdyn.stages.spatial import ACCURACY

SUBSETS = ("magicbrush", "ag", "something", "whatsup", "kubric")
DOUNDO_CRITERIA = ("instruction", "identity", "temporal", "objects")


def frames(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Return result file -> frame."""
    return {
        **_of_papers("judge_scores", judge_scores(rng)),
        **_of_papers("judge_runs", _runs()),
        **_of_papers("systems", systems()),
        **_of_papers("measures", _measures()),
        **_of_papers("leaderboard", _leaderboard()),
        "spatial/accuracy.csv": accuracy(),
        "spatial/missing.csv": pd.DataFrame([("liquid", "no VQGAN beside it")], columns=["model", "reason"]),
        **study(),
    }


def _of_papers(name: str, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return each paper's rows under the file of its evaluation."""
    return {f"{stage}/{name}.csv": frame[frame["paper"] == paper] for paper, stage in EVALUATIONS.items()}


def judge_scores(rng: np.random.Generator) -> pd.DataFrame:
    """GPT-4o on three forward systems (one reply in twenty unreadable), Gemini on two that undo, twice each."""
    rows = []
    for system, level in {"supervised": 3.0, "synthetic_weighted": 4.0, "synthetic": 3.5}.items():
        for subset in SUBSETS:
            for item in range(4):
                two = [float(rng.integers(0, 11)), level]
                if (len(rows) // 3) % 20 == 19:
                    two = [float("nan")] * 2
                values = {"editing_success": two[0], "minimal_editing": two[1], "score": min(two)}
                asked = "GPT-4o", "paper", "1-0a1b2c3d", "B", system, 0, subset, f"{item:03d}", "forward", "", "", 0
                rows += [(*asked, name, value)
                         for name, value in values.items()]  # fmt: skip
    for system in ("base", "doundo"):
        for repeat in range(2):
            for direction, origin in (("forward", ""), ("reverse", "gt")):
                asked = (direction, origin, "long", repeat)
                rows += [("Gemini", "kit", "1-4e5f6a7b", "D", system, 0, verb, f"{verb}-1", *asked, name, 8.0 + repeat)
                         for verb in ("open", "close") for name in DOUNDO_CRITERIA]  # fmt: skip
    names = "judge judge_prompt prompt_version paper system chain subset id direction reverse_from prompt repeat"
    names += " criterion value"
    return pd.DataFrame(rows, columns=names.split())


def _runs() -> pd.DataFrame:
    names = "judge judge_prompt prompt_version paper system asked reused invalid refused failed cost_usd note"
    asked = "GPT-4o", "paper", "1-0a1b2c3d", "B", "supervised"
    return pd.DataFrame([(*asked, 20, 0, 1, 0, 0, 0.12, "")], columns=names.split())


def systems() -> pd.DataFrame:
    """A trained system, an imported one that lacks images, one through diffusers that was not run."""
    rows = [
        ("B", "supervised", "C-FT", "trained", "models/fdm/supervised-s0", 20, 20, 0, ""),
        ("B", "SmartEdit", "SmartEdit", "imported", "", 20, 18, 2, "2 images are missing"),
        (
            "B",
            "InstructPix2Pix",
            "InstructPix2Pix",
            "diffusers",
            "timbrooks/instruct-pix2pix",
            20,
            0,
            20,
            "no GPU here",
        ),
    ]
    names = "paper system label origin model expected found missing note"
    return pd.DataFrame(rows, columns=names.split())


def _measures() -> pd.DataFrame:
    names = "paper metric measured_with status n empty note"
    rows = [
        ("B", "dino", "models/dino (embedded)", "smaller scale", 200, 0, ""),
        ("D", "dino", "models/dino (embedded)", "smaller scale", 200, 0, ""),
        ("D", "epe", "farneback", "interpretation", 200, 0, ""),
        ("D", "epe_norm", "farneback", "interpretation", 200, 0, ""),
    ]
    return pd.DataFrame(rows, columns=names.split())


def _leaderboard() -> pd.DataFrame:
    rows = [
        ("B", "score", "synthetic_weighted", 4.1, 20, 3.5, 4.7, "chains and items", 3, "", *[np.nan] * 6),
        ("B", "score", "copy", 0.0, 20, 0.0, 0.0, "items", 1, "synthetic_weighted", -4.1, -4.7, -3.5, 1e-4, 2e-4, 20),
        ("D", "score forward long", "doundo", 4.3, 9, 3.0, 5.0, "items", 1, "", *[np.nan] * 6),
    ]
    names = "paper metric system mean n low high interval_over num_chains reference difference"
    names += " difference_low difference_high p p_sign_flip num_nonzero"
    return pd.DataFrame(rows, columns=names.split())


def accuracy() -> pd.DataFrame:
    """Two models on the kitchen by likelihood, one in two chains; one on SpatialMQA in words."""
    rows = [
        ("zero_shot", 0, "kitchen", "likelihood_sum", 80, 0.5, 0.5, 0.425, 0.0, 0.39, 0.61, 0.1, 0.3),
        ("zero_shot", 1, "kitchen", "likelihood_sum", 80, 0.6, 0.6, 0.425, 0.0, 0.49, 0.71, 0.01, 0.3),
        ("idm", 0, "kitchen", "likelihood_sum", 80, 0.4, 0.4, 0.425, 0.0, 0.3, 0.51, 0.7, 0.3),
        ("supervised", 0, "spatialmqa", "generation", 1076, 0.258, 0.24, 0.271, 0.1, 0.233, 0.285, 0.9, 0.275),
    ]
    return pd.DataFrame(rows, columns=ACCURACY)


def study() -> dict[str, pd.DataFrame]:
    """Best/worst points of two systems in two subsets, and one pairwise comparison."""
    best = [
        ("study", "overall", subset, system, score, score - 0.1, score + 0.1, "annotators", 70, 14, *tests)
        for subset in ("magicbrush", "All")
        for system, score, tests in (
            ("SmartEdit", -0.3, (0.001, 0.002, 0.003, 40, 1)),
            ("synthetic_weighted", 0.3, (np.nan, np.nan, np.nan, np.nan, np.nan)),
        )
    ]
    shares = [("pairs", "overall", name, value, value - 5, value + 5, "annotators", 48, 7, 10.0, value + 5)
              for name, value in (("doundo", 60.0), ("base", 30.0))]  # fmt: skip
    compared = [("pairs", "overall", "base", "doundo", 48, 7, 14, 5, 29, 0.02, 0.03)]
    people = [("study", "best_worst", "overall", 14, 14, 25, 350), ("pairs", "pairwise", "overall", 7, 6, 48, 336)]
    rows = {"participation": people, "table5": best, "table7": shares, "comparisons": compared}
    return {f"human_study/{name}.csv": pd.DataFrame(found, columns=STUDY[name]) for name, found in rows.items()}
