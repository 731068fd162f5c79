"""SpatialMQA and EmbSpatial-Bench: multiple-choice questions about where things are in an image.

SpatialMQA (ziyan-xiaoyu/SpatialMQA, Apache-2.0) is JSON lines {"image", "question", "options", "answer"}: the image
is a file name of COCO test2017, the answer one of the options, which are two, four or six of the same six relations.
The public splits have 3,780, 536 and 1,076 questions.

EmbSpatial-Bench (Phineas476/EmbSpatial-Bench, CC BY 4.0) is one JSON array of objects with "data_source" (mp3d,
ai2thor, scannet), "question_id", "question", "relation" (six), "image" (a JPEG in base64), "answer_options" (four) and
"answer" (an index); "scene_id" and "objects" are not read. It has 3,640 questions.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visdyn.datasets.bad_items import DatasetError, collecting, image_problem
from visdyn.images import ImageError, ImageRef
from visdyn.images import decode as decode_image
from visdyn.paths import inside
from visdyn.quarantine import Quarantine
from visdyn.readers import Unusable, read_items, read_lines, read_text

_ADVICE = "give the benchmark's question file"


@dataclass(frozen=True)
class SpatialQuestion:
    """A question with options, one of which is right.

    Attributes:
        source: path of the image, or the bytes of an image file.
        question: the text; the options are not part of it.
        options: at least two texts, in the order of the file.
        answer: index of the right option.
        benchmark: `spatialmqa` or `embspatial`.
        group: EmbSpatial-Bench's data source; empty for SpatialMQA.
        relation: the spatial relation asked for.
        id: unique within the benchmark.
    """

    source: Path | bytes
    question: str
    options: tuple[str, ...]
    answer: int
    benchmark: str
    group: str
    relation: str
    id: str

    @property
    def answer_text(self) -> str:
        """The right option's text."""
        return self.options[self.answer]

    @property
    def image(self) -> ImageRef:
        """The image, decoded anew at each call where it is held as bytes: thousands of pictures stay small.

        Raises:
            visdyn.images.ImageError: the bytes are not an image.
        """
        if isinstance(self.source, Path):
            return self.source
        return decode_image(self.source, f"the image of question {self.id}")


def load_spatialmqa(
    jsonl_path: str | Path,
    image_folder: str | Path,
    quarantine: Quarantine | None = None,
    require_images: bool = True,
    decode: bool = False,
    benchmark: str = "spatialmqa",
) -> list[SpatialQuestion]:
    """Read the questions of one split of SpatialMQA, in its order.

    Args:
        jsonl_path: `Dataset/dataset/test.jsonl` of the public repository.
        image_folder: COCO's `test2017` images (the repository's `Dataset/COCO2017`).
        quarantine: takes the unusable lines; a warning counts them where it is None.
        require_images: False skips the look on the disk, for the questions without their images.
        decode: also decode every image (slower).
        benchmark: name of another benchmark in the same layout (`kitchen`).

    Returns:
        Questions whose relation is the line's own `relation`, else the answer, and whose id is its `id`, else its
        number from 0 on.

    Raises:
        DatasetError: the file is missing, or holds no usable question.
    """
    path = Path(jsonl_path)

    def read_question(row: dict, number: int) -> SpatialQuestion:
        options, answer = _read_options(row, "options"), _read_text(row, "answer")
        if answer not in options:
            raise ValueError(f"answer {answer!r} is not among the options {', '.join(options)}")
        source = inside(image_folder, _read_text(row, "image"))
        if require_images and (problem := image_problem(source, decode)):
            raise ValueError(problem)
        name, relation = str(row.get("id", number)), row.get("relation") or answer
        if not isinstance(relation, str):
            raise ValueError("field relation is no text")
        return SpatialQuestion(
            source, _read_text(row, "question"), options, options.index(answer), benchmark, "", relation, name
        )

    return _collect_questions(path, _read_question_lines(path), read_question, quarantine)


def load_embspatial(
    json_path: str | Path, quarantine: Quarantine | None = None, decode: bool = False
) -> list[SpatialQuestion]:
    """Read the questions of EmbSpatial-Bench, in their order; about a gigabyte of memory for the public file.

    Args:
        json_path: `embspatial_bench.json`, an array of objects (JSON lines are read too).
        quarantine: takes the unusable objects; a warning counts them where it is None.
        decode: also decode every image (slower).

    Raises:
        DatasetError: the file is missing or malformed, or holds no usable question.
    """
    path = Path(json_path)

    def read_question(row: dict, number: int) -> SpatialQuestion:
        options, answer = _read_options(row, "answer_options"), row.get("answer")
        # True is an int in Python, and an index of 1 to a list.
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
            raise ValueError(f"answer {answer!r} is not an index into the {len(options)} options")
        source, name = _decode_base64(_read_text(row, "image")), str(row.get("question_id") or number)
        if decode:
            decode_image(source, f"the image of question {name}")
        texts = (_read_text(row, "data_source"), _read_text(row, "relation"))
        return SpatialQuestion(source, _read_text(row, "question"), options, answer, "embspatial", *texts, name)

    return _collect_questions(path, _read_array_or_lines(path), read_question, quarantine)


def _collect_questions(
    path: Path, rows: list, read: Callable[[dict, int], SpatialQuestion], quarantine: Quarantine | None
) -> list[SpatialQuestion]:
    found: dict[str, SpatialQuestion] = {}
    with collecting(quarantine, path, found) as bad:
        for number, row in enumerate(rows):
            place = f"{path.name}[{number}]"
            try:
                if not isinstance(row, dict):
                    kind = f"is a {type(row).__name__}, not an object"
                    raise ValueError(row.reason if isinstance(row, Unusable) else kind)
                question = read(row, number)
                if question.id in found:
                    raise ValueError(f"has the id {question.id} of an earlier question")
                found[question.id] = question
            except (ValueError, ImageError) as error:
                bad.add(place, str(error))
    if not found:
        raise DatasetError(
            f"{path} holds no usable question ({len(rows)} rows were read); check that it is the right file"
        )
    return list(found.values())


def _read_question_lines(path: Path) -> list:
    return [row for _, row in read_lines(path, DatasetError, _ADVICE)]


def _read_array_or_lines(path: Path) -> list:
    is_array = read_text(path, DatasetError, _ADVICE).lstrip().startswith("[")
    return read_items(path, DatasetError, _ADVICE) if is_array else _read_question_lines(path)


def _read_text(row: dict, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has no text in field {name}")
    return value.strip()


def _read_options(row: dict, name: str) -> tuple[str, ...]:
    values = row.get(name)
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"field {name} is not a list of at least two options")
    options = tuple(_read_text({name: value}, name) for value in values)
    if len(set(options)) < len(options):
        raise ValueError(f"field {name} has an option twice")
    return options


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the image is not valid base64 ({error})") from error
