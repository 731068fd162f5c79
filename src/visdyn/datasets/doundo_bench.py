"""The Do-Undo benchmark's released annotations (`doundo/doundobench`): a JSON array, or a CSV with the same columns.

The files hold annotations only; frames come from EPIC-KITCHENS-100. What the released scripts honour is honoured here:
`start_img|final_start_img` and `end_img|final_end_img` override the frame paths and are used as they are, the
older `*_prompt_qwen30b` columns stand in for the prompts, and a prompt that looks like a list is read as one
and its first entry taken.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from visdyn.datasets.bad_items import DatasetError, collecting, image_problem, require_rows
from visdyn.datasets.epic_kitchens import Segment
from visdyn.paths import inside
from visdyn.quarantine import Quarantine
from visdyn.readers import Unusable, read_items, read_rows
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
_STARTS, _ENDS = ("start_img", "final_start_img"), ("end_img", "final_end_img")
_PARTICLES = frozenset({"up", "down", "on", "off"})
# Verbs that have an inverse; of some a particle makes another verb, and may stand behind the object.
_PARTICLES_OF = {"pick": {"up"}, "put": {"down"}, "turn": {"on", "off"}}
_VERBS = ("pick", "put", "open", "close", "grab", "turn", "place", "move", "remove", "take", "get", "stack", "unstack",
          "rotate")  # fmt: skip
# "opens", "opening", "closing", "putting": form -> verb
_ENDINGS = ("{0}", "{0}s", "{0}ing", "{1}ing", "{0}{2}ing")
_FORMS = {form.format(verb, verb.removesuffix("e"), verb[-1]): verb for verb in _VERBS for form in _ENDINGS}
_BEFORE_VERBS = frozenset({"and", "then", "to", "still", "continue", "continues", "keep", "start", "again"})
_AFTER_PARTICLES = frozenset({"and", "then", "with", "by", "at", "using", "again", "low", "high"})
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
    from `segments`; else from the narration: its first verb that has an inverse, with its particle wherever that stands
    ("turn on tap", "turn oven on": turn-on), and the words that follow up to a place ("place green cup in basket":
    place, green cup).

    Args:
        json_path: a JSON array of objects, or a .csv with the same columns.
        frames_root: folder of `<participant>/rgb_frames/<video>/frame_%010d.jpg`.
        quarantine: takes rows without a prompt or frame; a warning counts them where it is None.
        require_images: False skips the look on the disk, for annotations without their frames.
        segments: EPIC-KITCHENS segments, whose raw verb and noun are taken by narration id.

    Raises:
        DatasetError: the file is missing, is neither, or is empty.
    """
    path, seen = Path(json_path), set()
    pairs: list[ReversiblePair] = []
    known = {segment.narration_id: (segment.verb, segment.noun) for segment in segments}
    with collecting(quarantine, path, pairs) as bad:
        rows = _read_rows(path, bad)
        require_rows(rows, path)
        for number, row in enumerate(rows):
            place = f"{path.name}[{number}]"
            try:
                if not isinstance(row, dict):
                    reason = f"is a {type(row).__name__}, not an object"
                    raise ValueError(row.reason if isinstance(row, Unusable) else reason)
                pair = _read_pair(row, Path(frames_root), require_images, known)
                if (name := row.get("narration_id")) and name in seen:
                    raise ValueError("stands there twice; the first is kept")
                seen.add(name)
                pairs.append(pair)
            except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
                reason = f"has no field {error}" if isinstance(error, KeyError) else str(error)
                name = row.get("narration_id") if isinstance(row, dict) else None
                bad.add(name if isinstance(name, str) and name else place, reason)
    return pairs


def _read_rows(path: Path, bad: Quarantine) -> list:
    advice = "give annotations_train.json, annotations_test.json or a CSV of them"
    if path.suffix.lower() == ".csv":
        return [row for _, row in read_rows(path, ("narration",), DatasetError, advice, bad.add)]
    return read_items(path, DatasetError, advice)


def _read_pair(row: dict, frames_root: Path, require_images: bool, known: Mapping) -> ReversiblePair:
    located = any(row.get(name) for name in (*_STARTS, *_ENDS))
    if not located and _read_frame(row, "start_frame") >= _read_frame(row, "stop_frame"):
        raise ValueError(f"its stop frame {row['stop_frame']} does not come after its start frame {row['start_frame']}")
    start = _locate_image(row, frames_root, _STARTS, "start_frame")
    end = _locate_image(row, frames_root, _ENDS, "stop_frame")
    for path, given in ((start, _STARTS), (end, _ENDS)) if require_images else ():
        # A path that the row gives may be any file's: it has to be an image.
        if problem := image_problem(path, decode=any(row.get(name) for name in given)):
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
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text  # only looks like a list: a prompt in brackets


def _locate_image(row: dict, frames_root: Path, overrides: tuple[str, ...], column: str) -> Path:
    if override := next((row[name] for name in overrides if row.get(name)), None):
        return Path(override)
    name = f"frame_{_read_frame(row, column):010d}.jpg"
    return inside(frames_root, f"{row['participant_id']}/rgb_frames/{row['video_id']}/{name}")


def _read_frame(row: dict, column: str) -> int:
    number = row[column]
    if isinstance(number, bool) or (isinstance(number, float) and not number.is_integer()):
        raise ValueError(f"field {column} is {number!r}, which is no frame's number")
    return int(number)


def _verb_and_noun(narration: str) -> tuple[str, str]:
    words = [word for word in (word.strip(".,;") for word in narration.split()) if word]
    place = _find_verb(words)
    verb, rest = _FORMS.get(words[place].lower(), words[place]) if words else "", words[place + 1 :]
    plain = [word.lower() for word in rest]
    if plain and plain[0] in _PARTICLES:
        verb, rest = f"{verb}-{plain[0]}", rest[1:]
    elif (end := _find_particle(verb, plain)) is not None:
        verb, rest = f"{verb}-{plain[end]}", rest[:end]
    if rest and rest[0].lower() == "the":
        rest = rest[1:]
    end = next((i for i, word in enumerate(rest) if word.lower() in _PLACE_WORDS), len(rest))
    return verb, " ".join(rest[:end])


def _find_verb(words: Sequence[str]) -> int:
    """Return the place of a narration's verb: the first word, or one after fillers ("continue opening bag")."""
    for place, word in enumerate(words):
        if word.lower() in _FORMS and (place == 0 or words[place - 1].lower() in _BEFORE_VERBS):
            return place
    return 0


def _find_particle(verb: str, rest: Sequence[str]) -> int | None:
    """Return where a verb's particle stands behind its object: "oven on", and not "knob on stove"."""
    for place, word in enumerate(rest):
        last = place + 1 == len(rest) or rest[place + 1] in _PLACE_WORDS | _AFTER_PARTICLES
        if place and word in _PARTICLES_OF.get(verb, ()) and last:
            return place
    return None


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
