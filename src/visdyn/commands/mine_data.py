"""`visdyn mine keyframes VIDEO ...` and `visdyn mine pairs EPIC.csv`: both papers' mining, for files of your own."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from visdyn.datasets.clips import ClipError, find_clips, frames_at
from visdyn.datasets.epic_kitchens import load_segments
from visdyn.mining.clip_motion import FLOWS
from visdyn.mining.keyframes import MODES, select_keyframes
from visdyn.mining.reversible import VOCABULARIES, mine_pairs
from visdyn.quarantine import Quarantine


def main(arguments: Sequence[str] | None = None) -> int:
    """Mine key-frames or reversible pairs."""
    options = _make_parser().parse_args(arguments)
    return options.function(options)


def _mine_keyframes(options: argparse.Namespace) -> int:
    quarantine, mined = Quarantine(), 0
    places: list[Path] = []
    for name in options.videos:
        is_folder = Path(name).is_dir()
        places += [clip.path for clip in find_clips(name, quarantine)] if is_folder else [Path(name)]
    for place in places:
        try:
            found = select_keyframes(place, options.top_k, options.min_interval, options.mode, options.flow)
        except (ClipError, FileNotFoundError) as error:
            quarantine.add(place, str(error))
            continue
        mined += 1
        print(f"{place}: {' '.join(map(str, found)) or 'no key-frame'}")
        if options.out and found:
            folder = options.out / Path(place).stem
            folder.mkdir(parents=True, exist_ok=True)
            for index, frame in zip(found, frames_at(place, found), strict=True):
                Image.fromarray(frame).save(folder / f"{index:06d}.png")
    print(f"{mined} of {len(places)} videos mined; {quarantine.summary()}")
    for one in quarantine:
        print(f"  {one.item}: {one.reason}")
    return 0 if mined else 1


def _mine_pairs(options: argparse.Namespace) -> int:
    quarantine = Quarantine()
    segments = load_segments(options.csv, quarantine)
    pairs = mine_pairs(segments, options.vocabulary)
    counts = Counter(pair.verb for pair in pairs)
    print(f"{len(pairs)} of {len(segments)} segments are reversible: "
          + ", ".join(f"{verb} {count}" for verb, count in counts.most_common()))  # fmt: skip
    if len(quarantine):
        print(f"{options.csv}: {quarantine.summary()}")
    for pair in pairs[: options.show]:
        print(f"  {pair.segment.narration_id}: {pair.forward_short} | {pair.reverse_short}")
    if options.out:
        rows = [{"narration_id": pair.segment.narration_id, "verb": pair.verb, "inverse_verb": pair.inverse_verb,
                 "forward": pair.forward_short, "reverse": pair.reverse_short} for pair in pairs]  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        print(f"pairs: {options.out}")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn mine", description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(required=True, metavar="{keyframes,pairs}")
    frames = kinds.add_parser("keyframes", help="the frames of largest motion, spaced (Bootstrapping, section 3.2)")
    frames.add_argument("videos", nargs="+", help="video files, or folders of them")
    frames.add_argument("--top-k", type=int, default=6)
    frames.add_argument("--min-interval", type=int, default=20, help="frames between two")
    frames.add_argument("--mode", choices=MODES, default=MODES[0])
    frames.add_argument("--flow", choices=FLOWS, default=FLOWS[0])
    frames.add_argument("--out", type=Path, help="folder that the frames are written to")
    frames.set_defaults(function=_mine_keyframes)
    pairs = kinds.add_parser("pairs", help="segments whose action has an inverse (Do-Undo, section 3.1)")
    pairs.add_argument("csv", help="EPIC_100_train.csv, or any file with its columns")
    pairs.add_argument("--vocabulary", choices=tuple(VOCABULARIES), default="v1")
    pairs.add_argument("--show", type=int, default=10, help="pairs that are printed")
    pairs.add_argument("--out", type=Path, help="JSON lines of all pairs")
    pairs.set_defaults(function=_mine_pairs)
    return parser
