"""The README's tables of results, made from `reports/results`: the ledger of claims, then numbers.

`python -m visdyn.reporting.readme` rewrites the block between the two marks; a test compares it with the results.
"""

from __future__ import annotations

import pandas as pd

from visdyn.paths import repository_root
from visdyn.reporting import ledger, names, tables
from visdyn.reporting.results import Results
from visdyn.reporting.summaries import verification_curves

START, END = "<!-- results: python -m visdyn.reporting.readme -->", "<!-- end of results -->"
EDITORS = {"base": "Bagel (tiny, trained here)", "doundo": "Do-Undo", "doundo_c": "Do-Undo(c)"}


def block(results: Results) -> str:
    """Return the Markdown of the embedded default's results: the claims that were measured, then numbers."""
    claims = ledger.build_ledger(results)
    shown = ledger.printed_rows(claims, measured_only=True, notes=False)
    rows = [*_learned(results), *_forward(results), _verification(results), *_spatial(results), *_doundo(results)]
    rows.append(_aurora(results))
    head = "| what (kitchen world, held-out scenes, unless it says otherwise) | value |\n| --- | --- |\n"
    numbers = head + "".join(f"| {what} | {value} |\n" for what, value in rows)
    return f"{ledger.summary(claims)}\n\n{tables.markdown(shown)}\n{numbers}"


def rewritten(text: str, table: str) -> str:
    """Return a README's text with the block between the marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    before, found, rest = text.partition(START)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"README.md must hold the marks {START} and {END}, the table of results between them")
    return f"{before}{START}\n\n{table}\n{END}{after}"


def _learned(results: Results) -> list[tuple[str, str]]:
    tokenizer = results.read("base_measures/tokenizer.csv").set_index("measure")
    ceiling = tokenizer.loc["ceiling_score"]
    texts = results.read("idm_evaluation/text_metrics.csv")
    exact = texts[texts["metric"] == "exact"].set_index("model")
    n = int(exact["n"].iloc[0])
    values = " / ".join(f"{exact.loc[name, 'value']:.2f}" for name in ("zero_shot", "idm_same_labels", "idm"))
    pairs = results.read("annotation/pairs.csv")
    known = pairs[(pairs["selected"] == 1) & pairs["correct"].notna()]
    return [
        (f"tokenizer's ceiling: the target encoded and decoded, judged 0 to 10 (n = {int(ceiling['n'])})",
         f"{ceiling['value']:.1f}"),
        (f"IDM, exact match: zero-shot / same labels as the FDM / all labels (n = {n})", values),
        (f"synthetic labels that are right, of those selected (n = {len(known)})", f"{known['correct'].mean():.2f}"),
    ]  # fmt: skip


def _forward(results: Results) -> list[tuple[str, str]]:
    scores = results.read("evaluation/fdm_scores.csv")
    scores = scores[scores["metric"].isin(["score", "success"])]
    seeds = scores.groupby(["system", "metric", "seed"])["value"].mean()
    n = scores.groupby(["system", "metric", "seed"])["id"].size().max()
    shown = [name for name in names.FDM_SYSTEMS if name in seeds.index.get_level_values(0) and name != "oracle"]
    return [
        (
            f"FDM, judge's score / success: {names.fdm_system(name)} (n = {n})",
            f"{_spread(seeds.loc[name, 'score'])} / {_spread(seeds.loc[name, 'success'])}",
        )
        for name in shown
    ]


def _spread(seeds: pd.Series) -> str:
    return f"{seeds.mean():.2f} ± {seeds.std(ddof=1):.2f}" if len(seeds) > 1 else f"{seeds.mean():.2f}"


def _verification(results: Results) -> tuple[str, str]:
    curves = verification_curves(results.read("verification/candidates.csv"))
    curves = curves[curves["subset"] == "all"].groupby(["selector", "k"])["value"].mean()
    most = curves.index.get_level_values("k").max()
    chosen = [curves["random", 1], *(curves[name, most] for name in ("idm", "likelihood", "oracle"))]
    what = f"verification, K = 1 / best of {most} by the IDM / by the FDM itself / by an oracle"
    return what, " / ".join(f"{value:.2f}" for value in chosen)


def _spatial(results: Results) -> list[tuple[str, str]]:
    accuracy = results.read_or_none("spatial/accuracy.csv")
    if accuracy is None:
        return []
    own = accuracy[(accuracy["benchmark"] == "kitchen") & (accuracy["mode"] == "likelihood_sum")].set_index("model")
    shown = [name for name in ("zero_shot", "idm", "supervised", "synthetic_weighted") if name in own.index]
    labels = " / ".join(names.spatial_model(name) for name in shown)
    what = f"spatial questions by likelihood: {labels} / chance (n = {int(own['n'].iloc[0])})"
    return [(what, " / ".join(f"{value:.2f}" for value in [*own.loc[shown, "accuracy"], own["chance"].iloc[0]]))]


def _doundo(results: Results) -> list[tuple[str, str]]:
    scores = results.read_or_none("evaluation_doundo/doundo_scores.csv")
    if scores is None:
        return []
    long = scores[scores["prompt"] == "long"]
    rows = []
    for system, name in EDITORS.items():
        own = long[long["system"] == system]
        chain = own[own["reverse_from"] == "generated"]
        measures = [(own[own["direction"] == "forward"], "success"), (chain, "returned"), (chain, "joint")]
        parts = [part[part["metric"] == metric].groupby("seed")["value"] for part, metric in measures]
        what = f"{name}: forward success / chain returns / both (n = {parts[0].size().max()})"
        rows.append((what, " / ".join(_spread(part.mean()) for part in parts)))
    return rows


def _aurora(results: Results) -> tuple[str, str]:
    table = results.read("external/aurora_copy.csv")
    paper = table[table["geometry"] == "paper"].set_index("subset").loc[list(names.SUBSETS)]
    counts = ", ".join(str(int(n)) for n in paper["n"])
    what = f"AURORA-Bench, real images: Copy's L1 in the five subsets (n = {counts}), and as Table 6 prints it"
    both = [" / ".join(f"{value:.3f}".lstrip("0") for value in paper[column]) for column in ("l1", "published")]
    return what, ", and ".join(both)


def main() -> None:
    """Rewrite the README of the checkout."""
    path = repository_root() / "README.md"
    path.write_text(rewritten(path.read_text(), block(Results(repository_root()))))


if __name__ == "__main__":
    main()
