"""A made-up `data/recorded`: two systems, two items in each of five subsets, one photograph behind each subset."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from visdyn.evaluation.recorded.evidence import SUBSETS

# Two numbers a reply, by subset; `second` has no reply to Kubric's second item.
FIRST = {subset: [(8, 6), (2, 9)] for subset in SUBSETS}
SECOND = {subset: [(5, 5), (1, 10)] for subset in SUBSETS} | {"kubric": [(4, 7)]}
IMAGES = {"L1": 0.1, "CLIP_I": 0.9, "CLIP_T": 0.3, "DINO": 0.8}


def write_evidence(folder: Path, commits: dict[str, str] | None = None, l1: dict[str, float] | None = None) -> Path:
    """Write the four files and return the folder; commits and L1 by system, where they are not made up."""
    folder.mkdir(parents=True, exist_ok=True)
    systems = [
        {"name": name, "folder": f"out-{name}", "commit": (commits or {}).get(name, "0" * 40),
         "printed": {"b_table2": name.title(), "b_table4": name.title(), "b_table6": name.title()}}
        for name in ("first", "second")
    ]  # fmt: skip
    (folder / "systems.yaml").write_text(yaml.safe_dump({"runs": {"b_table4": 3}, "systems": systems}))
    items = [(subset, item, 50 * place + item, 0) for place, subset in enumerate(SUBSETS) for item in range(2)]
    pd.DataFrame(items, columns=["subset", "item", "index", "source"]).to_csv(folder / "items.csv", index=False)
    replies, aggregates = [], []
    for name, numbers in (("first", FIRST), ("second", SECOND)):
        finals = {subset: [min(pair) for pair in pairs] for subset, pairs in numbers.items()}
        for subset, pairs in numbers.items():
            replies += [(name, subset, item, *pair, min(pair)) for item, pair in enumerate(pairs)]
            own = IMAGES | {"L1": (l1 or {}).get(name, IMAGES["L1"]), "#sample": 2, "#gpt4o_valid": len(pairs)}
            own["GPT4o"] = sum(finals[subset]) / len(pairs)
            aggregates += [(name, subset, metric, value) for metric, value in own.items()]
        flat = [value for values in finals.values() for value in values]
        aggregates.append((name, "all", "GPT4o", sum(flat) / len(flat)))
    columns = ["system", "subset", "item", "editing_success", "minimal_editing", "final_score"]
    pd.DataFrame(replies, columns=columns).to_csv(folder / "replies.csv", index=False)
    columns = ["system", "subset", "metric", "value"]
    pd.DataFrame(aggregates, columns=columns).to_csv(folder / "aggregates.csv", index=False)
    return folder
