"""The Do-Undo benchmark's released annotations (`doundo/doundobench`): a JSON array, or a CSV with the same columns.

The files hold annotations only; frames come from EPIC-KITCHENS-100. What the released scripts honour is honoured here:
`start_img|final_start_img` and `end_img|final_end_img` override the frame paths and are used as they are, the
older `*_prompt_qwen30b` columns stand in for the prompts, and a prompt that looks like a list is read as one
and its first entry taken.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from visdyn.datasets.bad_items import DatasetError, collecting, image_problem
from visdyn.datasets.epic_kitchens import Segment
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

FIELDS = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_frame",
    "stop_frame",
    "narration",
    "verb_class",
    "noun_class",
    "forward_prompt",
    "reverse_prompt",
)
# What the kit's own files hold besides; the released ones do not.
EXTRA_FIELDS = ("verb", "noun", "forward_short", "reverse_short")
_PARTICLES = frozenset({"up", "down", "on", "off"})
_PLACE_WORDS = frozenset({"in", "into", "on", "onto", "from", "to", "off", "under", "left", "right"})


def load(
    json_path: str | Path,
    frames_root: str | Path,
    quarantine: Quarantine | None = None,
    require_images: bool = True,
    segments: Iterable[Segment] = (),
) -> list[ReversiblePair]:
    """Read the reversible pairs of one annotation file, in its order.

    `forward_short` falls back to the narration. The released files have no short reverse prompt: `reverse_short` is
    then empty, and `visdyn.mining.reversible.with_short_prompts` writes it. Verb and noun, which they lack too, come
    from `segments`; else they are the narration's first word (with its particle: "turn on tap" is turn-on) and the
    words that follow up to a place ("place green cup in basket": place, green cup).

    Args:
        json_path: a JSON array of objects, or a .csv with the same columns.
        frames_root: folder of `<participant>/rgb_frames/<video>/frame_%010d.jpg`.
        quarantine: takes rows without a prompt or frame; a warning counts them where it is None.
        require_images: False skips the look on the disk, for annotations without their frames.
        segments: EPIC-KITCHENS segments, whose raw verb and noun are taken by narration id.

    Raises:
        DatasetError: the file is missing or is neither.
    """
    path, pairs = Path(json_path), []
    known = {segment.narration_id: (segment.verb, segment.noun) for segment in segments}
    with collecting(quarantine, path) as bad:
        for number, row in enumerate(_read_rows(path)):
            try:
                pairs.append(_read_pair(row, Path(frames_root), require_images, known))
            except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
                reason = f"has no field {error}" if isinstance(error, KeyError) else str(error)
                name = row.get("narration_id") if isinstance(row, dict) else None
                bad.add(name or f"{path.name}[{number}]", reason)
    return pairs


def _read_rows(path: Path) -> list:
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist; give annotations_train.json, annotations_test.json or a CSV of them"
        )
    if path.suffix.lower() == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(rows, list):
        raise DatasetError(f"{path} holds a {type(rows).__name__} where an array of annotations is expected")
    return rows


def _read_pair(row: dict, frames_root: Path, require_images: bool, known: Mapping) -> ReversiblePair:
    start = _locate_image(row, frames_root, ("start_img", "final_start_img"), "start_frame")
    end = _locate_image(row, frames_root, ("end_img", "final_end_img"), "stop_frame")
    for path in (start, end) if require_images else ():
        if problem := image_problem(path):
            raise ValueError(problem)
    narration = _read_text(row, "narration")
    verb, noun = known.get(row.get("narration_id")) or _verb_and_noun(narration)
    return ReversiblePair(
        start=start,
        end=end,
        forward_prompt=_read_text(row, "forward_prompt", "forward_prompt_qwen30b"),
        reverse_prompt=_read_text(row, "reverse_prompt", "reverse_prompt_qwen30b"),
        forward_short=_read_text(row, "forward_short", "narration"),
        reverse_short=_read_text(row, "reverse_short"),
        narration=narration,
        verb=_read_text(row, "verb") or verb,
        noun=_read_text(row, "noun") or noun,
        id=_read_text(row, "narration_id") or start.stem,
    )


def _read_text(row: dict, *names: str) -> str:
    found = next((row[name] for name in names if row.get(name)), "")
    # The CSV form writes a list of one prompt as its Python literal.
    if isinstance(found, str) and found.strip().startswith("[") and found.strip().endswith("]"):
        found = _parse_list(found.strip())
    if isinstance(found, list | tuple):
        found = found[0] if found else ""
    if not isinstance(found, str):
        raise ValueError(f"field {names[0]} holds {found!r} where text is expected")
    return found.strip()


def _parse_list(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # only looks like a list: a prompt in brackets


def _locate_image(row: dict, frames_root: Path, overrides: tuple[str, ...], column: str) -> Path:
    if override := next((row[name] for name in overrides if row.get(name)), None):
        return Path(override)
    folder = frames_root / row["participant_id"] / "rgb_frames" / row["video_id"]
    return folder / f"frame_{int(row[column]):010d}.jpg"


def _verb_and_noun(narration: str) -> tuple[str, str]:
    words = narration.split()
    length = 2 if len(words) > 1 and words[1] in _PARTICLES else 1
    rest = words[length + (words[length : length + 1] == ["the"]) :]
    end = next((i for i, word in enumerate(rest) if word in _PLACE_WORDS), len(rest))
    return "-".join(words[:length]), " ".join(rest[:end])


def dump(
    pairs: Iterable[ReversiblePair],
    json_path: str | Path,
    segments: Mapping[str, Segment] | Iterable[Segment],
    extras: bool = True,
) -> None:
    """Write pairs as the released JSON array, sorted by narration id.

    Args:
        pairs: reversible pairs; `id` is the narration id. Paths are not written: the frames' place follows from the
            segment.
        json_path: file to write.
        segments: the pairs' segments (for video, frames and classes), as a list or keyed by narration id.
        extras: also write verb, noun and the two short prompts; False gives the released fields alone.

    Raises:
        DatasetError: a pair has no segment.
    """
    by_id = segments if isinstance(segments, Mapping) else {segment.narration_id: segment for segment in segments}
    rows = []
    for pair in sorted(pairs, key=lambda pair: pair.id):
        if pair.id not in by_id:
            raise DatasetError(
                f"pair {pair.id} has no segment of that narration id; pass the segments it was mined from"
            )
        rows.append(_make_row(pair, by_id[pair.id], extras))
    Path(json_path).parent.mkdir(parents=True, exist_ok=True)
    Path(json_path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _make_row(pair: ReversiblePair, segment: Segment, extras: bool) -> dict:
    row = {name: getattr(segment, name) for name in FIELDS if not name.endswith("_prompt")}
    row |= {"stop_frame": _locate_last_frame(pair, segment), "narration": pair.narration}
    row |= {"forward_prompt": pair.forward_prompt, "reverse_prompt": pair.reverse_prompt}
    return row | ({name: getattr(pair, name) for name in EXTRA_FIELDS} if extras else {})


def _locate_last_frame(pair: ReversiblePair, segment: Segment) -> int:
    # A stop frame that was clamped to the last existing file is written as the file's number.
    name = pair.end.stem if isinstance(pair.end, Path) else ""
    return int(name.removeprefix("frame_")) if name.startswith("frame_") else segment.stop_frame
