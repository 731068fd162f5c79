"""`visdyn score FOLDER`: the printed rows, the tables, and a page with pictures (`visdyn.evaluation.score`)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from visdyn.commands.score_card import write_card
from visdyn.evaluation.judges.run import spread
from visdyn.evaluation.score import ScoredFolder, default_out, parser, score_folder

MOST_MISSING = 10  # items that are printed by name; all stand in quarantine.csv
COLUMNS = ["metric", "system", "mean", "low", "high", "n", "difference", "p"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a folder, print its rows, and write tables and card."""
    options = parser().parse_args(arguments)
    scored = score_folder(options)
    out = default_out(options)
    scored.write(out)
    card = write_card(scored, out / "card.html", options.pictures)
    print("\n".join([*describe_rows(scored), "", f"tables: {out}", f"card:   {card}"]))
    return 0


def describe_rows(scored: ScoredFolder) -> list[str]:
    """Return what is printed of a folder: n and what is missing, the instruments, and the rows of every system."""
    share = f"{len(scored.items)} of {scored.expected} items have an image"
    whole = "" if len(scored.items) == scored.expected else "; every row below is over these items alone"
    lines = [f"{scored.name} on {scored.bench.name}: {share}{whole}", *scored.notes, ""]
    if "newer_version" in scored.tables:
        lines += [scored.tables["newer_version"].to_string(index=False, float_format="%.3f"), ""]
    board = scored.tables["leaderboard"]
    shown = board[COLUMNS].assign(p=board["p"].map(describe_p))
    lines.append(shown.to_string(index=False, float_format="%.3f", na_rep=""))
    if "judge_scores" in scored.tables:
        lines += ["", spread(scored.tables["judge_scores"]).to_string(index=False, float_format="%.2f"),
                  scored.tables["judge_runs"].to_string(index=False)]  # fmt: skip
    missing = scored.tables["quarantine"]
    lines += ["", f"{len(missing)} set aside"]
    lines += [f"  {item}: {reason}" for item, reason in missing.head(MOST_MISSING).itertuples(index=False)]
    if len(missing) > MOST_MISSING:
        lines.append(f"  and {len(missing) - MOST_MISSING} more, in quarantine.csv")
    return lines


def describe_p(p: float) -> str:
    """Return a p-value as it is printed; empty where there is none."""
    if pd.isna(p):
        return ""
    return "<.001" if p < 0.001 else f"{p:.3f}"
