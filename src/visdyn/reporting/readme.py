"""The README's tables of results, made from `reports/results`: the claims that lead, all claims, numbers.

`visdyn readme` rewrites the block between the two marks; a test compares it with the results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from visdyn.evaluation.measurements import with_scores
from visdyn.paths import repository_root
from visdyn.reporting import ledger, names, provenance, tables
from visdyn.reporting.results import Results
from visdyn.reporting.summaries import verification_curves

START, END = "<!-- results: visdyn readme -->", "<!-- end of results -->"
EDITORS = {"base": "Bagel (tiny, trained here)", "doundo": "Do-Undo", "doundo_c": "Do-Undo(c)"}


def block(results: Results) -> str:
    """Return the Markdown of the embedded default's results.

    First the claims that the papers lead with, whether measured or not; folded, all that were measured, and numbers.
    """
    claims = ledger.build_ledger(results)
    leading = lead_claims(claims)
    shown = ledger.printed_rows(claims, measured_only=True, notes=False)
    rows = [*_learned(results), *_forward(results), _verification(results), *_spatial(results), *_doundo(results)]
    rows.append(_aurora(results))
    drawn = results.read("idm_evaluation/text_metrics.csv")["chain"].nunique()
    spread = f"{tables.describe_spread([drawn])}.\n" if drawn > 1 else ""
    head = "| what (kitchen world, held-out scenes, unless it says otherwise) | value |\n| --- | --- |\n"
    numbers = head + "".join(f"| {what} | {value} |\n" for what, value in rows)
    families = provenance.read_families(results.profile / "reports/machine.json")
    named = ", ".join(f"{name} ({kind})" for name, kind in families.items())
    made = f"Made by machines of family {named}; another family trains other weights (docs/pipeline.md).\n"
    parts = [
        f"What the papers lead with. {ledger.summary(claims)}\n",
        tables.markdown(leading.assign(verdict="**" + leading["verdict"] + "**")),
        _fold(f"All {len(shown)} rows that were measured", tables.markdown(shown)),
        _fold("The numbers behind them", "\n".join(filter(None, [numbers, spread]))),
        made if families else "",
    ]
    return "\n".join(filter(None, parts))


def lead_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """Return what the papers lead with, in few columns, as text; a claim that has been measured only so.

    Args:
        claims: the ledger.

    Returns:
        claim, stands in, paper, here, with its 95 % interval, measured on, verdict.
    """
    leading = {claim.id for claim in ledger.load_claims() if claim.leads}
    claims = claims[claims["id"].isin(leading)]
    measured = set(claims.loc[claims["verdict"] != "not measured", "id"])
    known = (claims["verdict"] != "not measured") | ~claims["id"].isin(measured)
    rows = ledger.printed_rows(claims[known].drop_duplicates(["id", "evidence"]), notes=False)
    interval = [
        f" ({low} to {high})" if low and high else "" for low, high in zip(rows["low"], rows["high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "claim": rows["claim"],
            "stands in": rows["stands in"],
            "paper": rows["published"],
            "here, with its 95 % interval": rows["estimate"] + interval,
            "measured on": rows["evidence"],
            "verdict": rows["verdict"],
        }
    )


def _fold(head: str, text: str) -> str:
    return f"<details><summary>{head}</summary>\n\n{text.strip()}\n\n</details>\n"


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
    values = " / ".join(_spread(exact.loc[[name], "value"]) for name in ("zero_shot", "idm_same_labels", "idm"))
    pairs = results.read("annotation/pairs.csv")
    known = pairs[(pairs["selected"] == 1) & pairs["correct"].notna()].groupby("chain")["correct"]
    return [
        (f"tokenizer's ceiling: the target encoded and decoded, judged 0 to 10 (n = {int(ceiling['n'])})",
         f"{ceiling['value']:.1f}"),
        (f"IDM, exact match: zero-shot / same labels as the FDM / all labels (n = {n})", values),
        (f"synthetic labels that are right, of those selected (n = {known.size().max()})", _spread(known.mean())),
    ]  # fmt: skip


def _forward(results: Results) -> list[tuple[str, str]]:
    scores = results.read("evaluation/fdm_scores.csv")
    scores = scores[scores["metric"].isin(["score", "success"])]
    chains = scores.groupby(["system", "metric", "chain"])["value"].mean()
    n = scores.groupby(["system", "metric", "chain"])["id"].size().max()
    shown = [name for name in names.FDM_SYSTEMS if name in chains.index.get_level_values(0) and name != "oracle"]
    return [
        (
            f"FDM, judge's score / success: {names.fdm_system(name)} (n = {n})",
            f"{_spread(chains.loc[name, 'score'])} / {_spread(chains.loc[name, 'success'])}",
        )
        for name in shown
    ]


def _spread(chains: pd.Series) -> str:
    return f"{chains.mean():.2f} ± {chains.std(ddof=1):.2f}" if len(chains) > 1 else f"{chains.mean():.2f}"


def _verification(results: Results) -> tuple[str, str]:
    scores = results.read("evaluation/candidate_scores.csv")
    each = with_scores(results.read("verification/candidates.csv"), scores).groupby("chain")
    curves = pd.concat([verification_curves(candidates).assign(chain=chain) for chain, candidates in each])
    means = curves[curves["subset"] == "all"].groupby(["selector", "k", "chain"])["value"].mean()
    most = curves["k"].max()
    chosen = [means["random", 1], *(means[name, most] for name in ("idm", "likelihood", "oracle"))]
    what = f"verification, K = 1 / best of {most} by the IDM / by the FDM itself / by an oracle"
    return what, " / ".join(map(_spread, chosen))


def _spatial(results: Results) -> list[tuple[str, str]]:
    accuracy = results.read_or_none("spatial/accuracy.csv")
    if accuracy is None:
        return []
    own = accuracy[(accuracy["benchmark"] == "kitchen") & (accuracy["mode"] == "likelihood_sum")].set_index("model")
    shown = [name for name in ("zero_shot", "idm", "supervised", "synthetic_weighted") if name in own.index]
    values = [_spread(own.loc[[name], "accuracy"]) for name in shown]
    labels = " / ".join(names.spatial_model(name) for name in shown)
    what = f"spatial questions by likelihood: {labels} / chance (n = {int(own['n'].iloc[0])})"
    return [(what, " / ".join([*values, f"{own['chance'].iloc[0]:.2f}"]))]


def _doundo(results: Results) -> list[tuple[str, str]]:
    scores = results.read_or_none("evaluation_doundo/doundo_scores.csv")
    if scores is None:
        return []
    long = scores[scores["prompt"] == "long"]
    rows = []
    for system, name in EDITORS.items():
        own = long[long["system"] == system]
        undone = own[own["reverse_from"] == "generated"]
        measures = [(own[own["direction"] == "forward"], "success"), (undone, "returned"), (undone, "joint")]
        parts = [part[part["metric"] == metric].groupby("chain")["value"] for part, metric in measures]
        what = f"{name}: forward success / undone from there it returns / both (n = {parts[0].size().max()})"
        rows.append((what, " / ".join(_spread(part.mean()) for part in parts)))
    return rows


def _aurora(results: Results) -> tuple[str, str]:
    table = results.read("external/aurora_copy.csv")
    paper = table[table["geometry"] == "paper"].set_index("subset").loc[list(names.SUBSETS)]
    counts = ", ".join(str(int(n)) for n in paper["n"])
    what = f"AURORA-Bench, real images: Copy's L1 in the five subsets (n = {counts}), and as Table 6 prints it"
    both = [" / ".join(f"{value:.3f}".lstrip("0") for value in paper[column]) for column in ("l1", "published")]
    return what, ", and ".join(both)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the README of the checkout."""
    argparse.ArgumentParser(prog="visdyn readme", description=main.__doc__).parse_args(arguments)
    path = repository_root() / "README.md"
    path.write_text(rewritten(path.read_text(), block(Results(repository_root()))))
