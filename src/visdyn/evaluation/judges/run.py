"""Every judge of the parameters over every system's images: judge_scores.csv and judge_runs.csv.

Judges that answer in words see the image before and the image after, never the target. Replies are kept under
`data/kept/replies/<judge>`: nothing is asked twice, a killed run goes on where it was, and a refusal or a reply that
cannot be read stays on disk, is counted, and gives an empty value. The region judge asks nobody: its scores are
metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from visdyn.compute.gpus import count_places
from visdyn.endpoint.client import Endpoint, EndpointSettings, EndpointStoppedError
from visdyn.endpoint.local_server import LocalEndpoint, LocalSettings
from visdyn.endpoint.plugin_judge import PluginEndpoint, PluginSettings
from visdyn.endpoint.replies import ReplyStore
from visdyn.endpoint.request_progress import Prices
from visdyn.evaluation.benches.bench import Bench
from visdyn.evaluation.judges.ask import OUTCOMES, JudgedItem, judge_from_store, judge_items
from visdyn.evaluation.judges.judge_prompts import Prompt, PromptError, load_prompt
from visdyn.evaluation.systems.outputs import SystemImages, file_name
from visdyn.params.evaluation import JudgeEntry
from visdyn.plugins import PluginError

KINDS = ("region", "endpoint", "transformers", "plugin")
PROMPT = ["judge_prompt", "prompt_version"]
SCORES = ["judge", *PROMPT, "paper", "system", "chain", "subset", "id", "direction", "reverse_from", "prompt", "repeat",
          "criterion", "value"]  # fmt: skip
RUNS = ["judge", *PROMPT, "paper", "system", "asked", "reused", "invalid", "refused", "failed", "cost_usd", "note"]
# What is sent unless the entry's `sampling` says otherwise; the seed rises with the repeat.
SAMPLING = {"max_tokens": 400, "temperature": 0.0, "seed": 0}


def judge_all(
    judges: Sequence[JudgeEntry],
    bench: Bench,
    items: Sequence,
    systems: Sequence[SystemImages],
    replies: Path,
    device: str = "cpu",
    report: Callable[[str], object] = print,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask every judge that answers in words about every system of a benchmark that it is meant for.

    Args:
        judges: a section's `judges`; the region judge among them is asked nothing.
        bench: says what is asked about each image.
        items, systems: trajectories or pairs, and the systems' images of them.
        replies: folder in which each judge's replies are kept.
        device: of a judge that runs on this machine.
        report: takes progress, cost, and why a judge was left out.

    Returns:
        judge_scores.csv and judge_runs.csv (`SCORES`, `RUNS`), header only where no judge answers in words.

    Raises:
        ValueError: a judge of an unknown kind, or two of one name.
    """
    asked = [entry for entry in judges if entry.kind != "region"]
    names = [judge_name(entry) for entry in asked]
    if unknown := {entry.kind for entry in asked} - set(KINDS):
        raise ValueError(f"the judges have kind {sorted(unknown)[0]!r}; one of {', '.join(KINDS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"two of the judges are called {max(names, key=names.count)!r}; give one another name")
    found = [judge_bench(entry, bench, items, systems, replies, device, report) for entry in asked]
    scores, runs = ([part[place] for part in found] for place in (0, 1))
    return _joined(scores, SCORES), _joined(runs, RUNS)


def judge_bench(
    entry: JudgeEntry,
    bench: Bench,
    items: Sequence,
    systems: Sequence[SystemImages],
    replies: Path,
    device: str = "cpu",
    report: Callable[[str], object] = print,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask one judge about one benchmark's systems; see `judge_all`.

    A judge that cannot be asked any more gives a note, and the scores of the replies that were kept before.
    """
    chosen = [one for one in systems if not entry.systems or one.name in entry.systems]
    judged, notes = [], {}
    for one in chosen:
        shown, skipped = _items(bench, items, one)
        judged += shown
        if skipped:
            notes[one.name] = f"{skipped} undone images not shown: the image they start from is missing"
    name, store = judge_name(entry), ReplyStore(replies / file_name(judge_name(entry)))
    if not judged:
        return pd.DataFrame(columns=SCORES), pd.DataFrame(columns=RUNS)
    try:
        prompt = load_prompt(entry.prompt or bench.default_prompt, bench.asks, entry.prompt_clone)
    except PromptError as error:
        report(f"{name}, {bench.name}: not run: {error}")
        return _not_run([name, entry.prompt, "", bench.paper], chosen, f"not run: {error}")
    before, settings, stopped = store.keys(), _settings(entry, prompt, device), ""
    prices = Prices(entry.price_in, entry.price_out) if entry.price_in or entry.price_out else None
    try:
        with _endpoint(settings) as endpoint:
            table = judge_items(
                judged,
                prompt,
                endpoint,
                store,
                entry.repeats,
                prices=prices,
                report=lambda line: report(f"{name}, {bench.name}: {line}"),
            )
    except (EndpointStoppedError, OSError, ImportError, PluginError) as error:
        stopped = f"not run: {error}"
        report(f"{name}, {bench.name}: {stopped}")
        table = judge_from_store(judged, prompt, settings, store, entry.repeats, str(error))
        if not (table["outcome"] != "failed").any():
            return _not_run([name, prompt.name, prompt.full_version, bench.paper], chosen, stopped)
    table = table.assign(judge=name, paper=bench.paper, prompt=table["length"])
    runs = _runs(table, prompt, store, before, entry)
    told = [(stopped, notes.get(system, ""), note) for system, note in zip(runs["system"], runs["note"], strict=True)]
    runs["note"] = ["; ".join(filter(None, parts)) for parts in told]
    return table.rename(columns={"metric": "criterion"})[SCORES], runs


def _not_run(judge: list[str], systems: Sequence[SystemImages], note: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = [[*judge, one.name, 0, 0, 0, 0, 0, 0.0, note] for one in systems if one.images]
    return pd.DataFrame(columns=SCORES), pd.DataFrame(rows, columns=RUNS).drop_duplicates("system")


def judge_name(entry: JudgeEntry) -> str:
    """Return the judge's name in every table: its own, else the model's."""
    return entry.name or Path(entry.model).name


def spread(scores: pd.DataFrame) -> pd.DataFrame:
    """Summarise judge_scores: a row for each judge and its prompt, system, direction, length and criterion.

    Returns:
        n (items with a score), empty (answers without one), mean over items of each item's mean over chains and
        repeats, and sd_repeats: the standard deviation of the repeats' own means (NaN for one repeat).
    """
    by = ["judge", *PROMPT, "paper", "system", "direction", "reverse_from", "prompt", "criterion"]
    filled = scores.assign(reverse_from=scores["reverse_from"].fillna(""), prompt=scores["prompt"].fillna(""))
    rows = []
    for key, group in filled.groupby(by, sort=True):
        per_item = group.groupby(["subset", "id"])["value"].mean().dropna()
        per_repeat = group.groupby("repeat")["value"].mean()
        rows.append([*key, len(per_item), int(group["value"].isna().sum()), per_item.mean(), per_repeat.std()])
    return pd.DataFrame(rows, columns=[*by, "n", "empty", "mean", "sd_repeats"])


def _settings(entry: JudgeEntry, prompt: Prompt, device: str) -> EndpointSettings | LocalSettings | PluginSettings:
    usual = SAMPLING | ({"response_format": prompt.criteria.response_format} if prompt.structured else {})
    if "max_completion_tokens" in entry.sampling:  # the same limit by its newer name
        del usual["max_tokens"]
    sampling = {name: value for name, value in (usual | entry.sampling).items() if value is not None}
    seed, max_side = sampling.pop("seed", None), entry.max_side or None
    if entry.kind == "transformers":
        sampling.pop("response_format", None)
        if unknown := sorted(set(entry.sampling) - set(SAMPLING)):
            raise ValueError(f"sampling of judge {judge_name(entry)}: a model on this machine takes "
                             f"{', '.join(SAMPLING)}, not {unknown[0]}")  # fmt: skip
        return LocalSettings(entry.model, sampling, seed, max_side, device, concurrency=count_places(device))
    if entry.kind == "plugin":
        sampling = {name: value for name, value in sampling.items() if name in entry.sampling}
        return PluginSettings(entry.model, sampling, seed, max_side, device)
    return EndpointSettings(
        entry.base_url,
        entry.model,
        entry.key_variable,
        sampling,
        seed,
        frozenset(usual) - set(entry.sampling),
        entry.concurrency,
        entry.requests_per_minute or None,
        entry.timeout_s,
        entry.max_attempts,
        entry.backoff_s,
        max_side=max_side,
        allow_http=entry.allow_http,
    )


def _endpoint(settings: EndpointSettings | LocalSettings | PluginSettings) -> Endpoint | LocalEndpoint | PluginEndpoint:
    kinds = {EndpointSettings: Endpoint, LocalSettings: LocalEndpoint, PluginSettings: PluginEndpoint}
    return kinds[type(settings)](settings)


def _items(bench: Bench, items: Sequence, system: SystemImages) -> tuple[list[JudgedItem], int]:
    """Return what is shown of a system, and how many undone images are not: the one they start from is missing."""
    found, skipped = [], 0
    for request, refs in system.images.items():
        before = None  # a chain starts from the system's own forward images
        if request.reverse_from == "generated":
            before = system.images[replace(request, direction="forward", reverse_from="")]
        for row, (item, image) in enumerate(zip(items, refs, strict=True)):
            if image is None:
                continue
            half = bench.transition(item, request)
            source = half.source if before is None else before[row]
            if source is None:
                skipped += 1
                continue
            found.append(
                JudgedItem(
                    system.name,
                    item.id,
                    source,
                    image,
                    half.action,
                    bench.subset(item),
                    request.direction,
                    system.chain,
                    request.prompt,
                    request.reverse_from,
                )
            )
    return found, skipped


def _runs(table: pd.DataFrame, prompt: Prompt, store: ReplyStore, before: set[str], entry: JudgeEntry) -> pd.DataFrame:
    """Count requests by system; equal questions of one system share a reply, and each is counted."""
    asked = table[table["metric"] == prompt.criteria.metrics[0]]
    rows = []
    for (judge, paper, system), group in asked.groupby(["judge", "paper", "system"], sort=True):
        counts = [int((group["outcome"] == name).sum()) for name in OUTCOMES[1:]]
        reused = int(group["key"].isin(before).sum())
        cost = sum(_cost(store, key, entry) for key in group["key"].unique())
        asked_as = [judge, prompt.name, prompt.full_version, paper, system]
        rows.append([*asked_as, len(group), reused, *counts, cost, _note(group)])
    return pd.DataFrame(rows, columns=RUNS)


def _note(group: pd.DataFrame) -> str:
    """Say which parameters were left out, and for each bad outcome the first reason."""
    left_out = sorted(set(group["left_out"]) - {""})
    notes = [f"the server refuses {names}" for names in left_out]
    for outcome in OUTCOMES[1:]:
        reasons = group.loc[group["outcome"] == outcome, "reason"]
        notes += [f"{outcome}: {reason}" for reason in reasons[:1]]
    return "; ".join(notes)


def _cost(store: ReplyStore, key: str, entry: JudgeEntry) -> float:
    """Return what a reply cost in USD, whichever run paid for it; 0 where the endpoint counted no tokens."""
    reply = store.get(key)
    if reply is None or reply.usage is None:
        return 0.0
    return (reply.usage.prompt_tokens * entry.price_in + reply.usage.completion_tokens * entry.price_out) / 1e6


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)
