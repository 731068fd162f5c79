"""Reading what BAGEL trains on: reversible pairs, captioned images, frame pairs, questions about images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visdyn import readers
from visdyn.datasets import doundo_bench
from visdyn.datasets.bad_items import DatasetError, image_problem, require_rows
from visdyn.models.bagel.samples import ANSWER, IMAGE, QUESTION
from visdyn.paths import inside
from visdyn.readers import Unusable, read_items, read_lines
from visdyn.training.bagel.mixture import Caption, Conversation, FramePair, Question

MARK = "<image>"  # where LLaVA's conversations show an image


@dataclass(frozen=True)
class BagelData:
    """The data files of a fine-tuning; `read_records` says what each is."""

    pairs: str | None = None
    frames: str | None = None
    captions: str | None = None
    questions: str | None = None
    frame_pairs: str | None = None


def read_records(
    pairs: str | None = None,
    frames: str | None = None,
    captions: str | None = None,
    questions: str | None = None,
    frame_pairs: str | None = None,
) -> dict[str, list]:
    """Read the record lists of a mixture from the files that are given. Images stay on the disk until they are used.

    Args:
        pairs: for edit and undo: annotations of the released benchmark's form (.json, .csv).
        frames: root of the EPIC-KITCHENS frames of the annotations; the annotations' folder by default.
        captions: for text_to_image: JSON lines with image and text; relative paths start at the file's folder. Lines
            without image belong to the rows of images.npy, uint8 (N, H, W, 3), beside the file.
        questions: for understanding: JSON lines with image, question and answer, or LLaVA-OneVision's layout
            (`read_conversations`).
        frame_pairs: further edits, without a text: .npy, uint8 (M, 2, H, W, 3).

    Raises:
        DatasetError: a file or an image is missing, or a row lacks a field; file and line are named.
    """
    records: dict[str, list] = {}
    if pairs is not None:
        records["edit"] = records["undo"] = doundo_bench.load(pairs, frames or Path(pairs).parent)
    if captions is not None:
        records["text_to_image"] = _read_captions(Path(captions))
    if questions is not None:
        records["understanding"] = read_questions(Path(questions))
    if frame_pairs is not None:
        both = np.load(frame_pairs, mmap_mode="r")
        records["edit"] = [*records.get("edit", ()), *(FramePair(before, after) for before, after in both)]
    return records


def read_questions(path: Path) -> list[Question] | list[Conversation]:
    """Read questions about images: one a line, or conversations in LLaVA-OneVision's layout.

    That layout is a JSON array, or JSON lines, of rows with `conversations`, a list of turns {from: human or gpt,
    value: text}, and `image`, a path or a list of paths; `<image>` in a human turn says where an image is shown. A row
    without images is a conversation about none.

    Raises:
        DatasetError: as `read_records`.
    """
    texts = ("question", "answer")
    if path.suffix == ".json":
        rows = read_items(path, DatasetError, _advise(texts))
        require_rows(rows, path)
        return [_read_conversation(row, path, f"row {number}") for number, row in enumerate(rows, start=1)]
    lines = read_lines(path, DatasetError, _advise(texts))
    require_rows(lines, path)
    if isinstance(lines[0][1], dict) and "conversations" not in lines[0][1]:
        return list(_read_lines(path, Question, texts))
    return [_read_conversation(row, path, f"line {number}") for number, row in lines]


def _read_conversation(row: object, path: Path, where: str) -> Conversation:
    try:
        if isinstance(row, Unusable):
            raise ValueError(row.reason)
        names = row.get("image") or []
        images = [inside(path.parent, name) for name in ([names] if isinstance(names, str) else names)]
        said = [(turn["from"], turn["value"]) for turn in row["conversations"]]
        turns = list(_read_turns(said, iter(images)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(f"{path}, {where}: expected image and conversations of human and gpt ({error!r})") from error
    shown = sum(kind == IMAGE for kind, _ in turns)
    if shown != len(images):
        raise DatasetError(f"{path}, {where}: {len(images)} images, but <image> stands {shown} times")
    if problem := next(filter(None, map(image_problem, images)), None):
        raise DatasetError(f"{path}, {where}: {problem}")
    if not any(kind == ANSWER for kind, _ in turns):
        raise DatasetError(f"{path}, {where}: no answer to learn; every row needs a turn of gpt with a text")
    return Conversation(tuple(turns))


def _read_turns(said: list[tuple[str, str]], images: Iterator[Path]) -> Iterator[tuple[str, Path | str]]:
    """Yield the turns as upstream reads them: a human's text is cut at each `<image>`, an answer is taken as it is."""
    for speaker, text in said:
        if speaker not in ("human", "gpt"):
            raise ValueError(f"a turn is from {speaker!r}")
        pieces = text.split(MARK) if speaker == "human" else [text]
        for number, piece in enumerate(pieces):
            if number:
                yield IMAGE, next(images, Path())
            if piece.strip():
                yield (QUESTION, piece.strip()) if speaker == "human" else (ANSWER, piece)


def _read_captions(path: Path) -> list[Caption]:
    images = path.parent / "images.npy"
    lines = read_lines(path, DatasetError, _advise(("text",)))
    require_rows(lines, path)
    if not images.is_file() or (isinstance(lines[0][1], dict) and "image" in lines[0][1]):
        return list(_read_lines(path, Caption, ("text",)))
    texts = [row["caption"] for row in readers.read_records(path, DatasetError)]
    pixels = np.load(images, mmap_mode="r")
    if len(texts) != len(pixels):
        raise DatasetError(f"{path} has {len(texts)} captions for the {len(pixels)} images of {images}")
    return [Caption(image, text) for image, text in zip(pixels, texts, strict=True)]


def _advise(texts: tuple[str, ...]) -> str:
    return f"give a file of JSON lines with image, {', '.join(texts)}"


def _read_lines(path: Path, kind: type, texts: tuple[str, ...]) -> Iterator:
    for number, row in read_lines(path, DatasetError, _advise(texts)):
        try:
            if isinstance(row, Unusable):
                raise ValueError(row.reason)
            image, values = inside(path.parent, row["image"]), [row[name].strip() for name in texts]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path}, line {number}: expected image, {', '.join(texts)} ({error!r})") from error
        if problem := image_problem(image) or (None if all(values) else "has an empty text"):
            raise DatasetError(f"{path}, line {number}: {problem}")
        yield kind(image, *values)
