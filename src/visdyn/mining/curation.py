"""From mined segments to benchmark pairs: quality filter and prompt expansion by a VLM (Do-Undo, section 3.1).

The paper asks a Qwen-VL three questions about the start and end frame, each to be answered 0 or 1, and lets it write
a long prompt from five frames and the annotation; the reverse prompt comes from the same instructions with the frames
in reversed order. None of its prompt texts is public: those in `prompts` below are reconstructed, in our own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

from visdyn.datasets import doundo_bench
from visdyn.datasets.bad_items import collecting, image_problem
from visdyn.datasets.epic_kitchens import FrameError, segment_frames
from visdyn.images import ImageRef
from visdyn.mining import curation_prompts as prompts
from visdyn.mining.reversible import MinedPair
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

NUM_FRAMES = 5
MIN_WORDS, MAX_WORDS = 5, 300


class CurationError(ValueError):
    """A model's answer cannot be used; the message says why and quotes its beginning."""


Question = tuple[Sequence[ImageRef], str]  # images, in order, and the text that follows them


class VisionLanguageModel(Protocol):
    """All that curation asks of a model. `name` goes into the cache's keys."""

    name: str

    def answer_many(self, questions: Sequence[Question]) -> list[str]:
        """Return the model's text for each question, in order; one batch."""
        ...

    def release(self) -> None:
        """Free the memory that the model takes; a later question loads it again."""
        ...


@dataclass(frozen=True)
class Case:
    """A mined pair with its frames in time order."""

    pair: MinedPair
    frames: tuple[ImageRef, ...]


class Curator(Protocol):
    """Decides on mined pairs and writes their long prompts; `reads_frames` says whether it looks at their pixels."""

    reads_frames: bool

    def quality(self, cases: Sequence[Case]) -> list[Quality | CurationError]:
        """Judge each pair by its first and last frame."""
        ...

    def expand(self, cases: Sequence[Case]) -> list[tuple[str, str] | CurationError]:
        """Return each pair's long forward and reverse prompt, written from the frames in time order."""
        ...


@dataclass(frozen=True)
class Quality:
    """The filter's three answers: frames clear, object in both, action carried out from start to end."""

    clear: bool
    object_present: bool
    action_applied: bool

    @property
    def passed(self) -> bool:
        """Whether all three are 1, as a pair needs."""
        return self.clear and self.object_present and self.action_applied

    def failures(self) -> str:
        """Name the questions answered 0."""
        return ", ".join(field.name for field in fields(self) if not getattr(self, field.name))


def parse_quality(text: str) -> Quality:
    """Read the three 0/1 answers: lines `name: 0` or `name: 1`, or JSON with these keys; fences are allowed.

    Raises:
        CurationError: an answer is missing, is neither 0 nor 1, or is given twice with different values.
    """
    answers = {}
    for field in fields(Quality):
        found = set(re.findall(rf"\b{field.name}\b[\"'*]*\s*[:=]\s*[\"'*]*\s*([^\s,}}\"'*]+)", text, re.IGNORECASE))
        values = {value.rstrip(".;") for value in found}
        if len(values) != 1 or not values <= {"0", "1"}:
            raise CurationError(f"the quality answer has no single 0 or 1 for {field.name}: {_quote_start(text)}")
        answers[field.name] = values == {"1"}
    return Quality(**answers)


def parse_expansion(text: str) -> str:
    """Return the one paragraph of a prompt expansion, without fences, quotes, labels or line breaks.

    Raises:
        CurationError: fewer than 5 or more than 300 words are left, or the model declined.
    """
    body = re.sub(r"```\w*", " ", text)
    body = re.sub(r"^\s*(prompt|forward|reverse)(\s+prompt)?\s*:\s*", "", body, flags=re.IGNORECASE)
    body = " ".join(body.split()).strip("\"'“”[] ").strip()
    count = len(body.split())
    if not MIN_WORDS <= count <= MAX_WORDS:
        raise CurationError(
            f"the expanded prompt has {count} words, not {MIN_WORDS} to {MAX_WORDS}: {_quote_start(text)}"
        )
    if re.match(r"(i'?m sorry|sorry|i cannot|i can't|as an ai)\b", body.replace("’", "'"), re.IGNORECASE):
        raise CurationError(f"the model declined to write a prompt: {_quote_start(text)}")
    return body


def _quote_start(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")


@dataclass(frozen=True)
class VLMCurator:
    """Curates with vision-language models; wrap them in `visdyn.models.understanding.chat_cache.CachedVLM` to be
    resumable.

    Attributes:
        filter_model: answers the three questions.
        expansion_model: writes the prompts; None takes the filter's.
    """

    filter_model: VisionLanguageModel
    expansion_model: VisionLanguageModel | None = None
    reads_frames: ClassVar[bool] = True

    def quality(self, cases: Sequence[Case]) -> list[Quality | CurationError]:
        """Ask the three questions about the first and last frames."""
        questions = [([case.frames[0], case.frames[-1]], prompts.quality(case.pair.forward_short)) for case in cases]
        return [_parse_or_error(parse_quality, text) for text in self.filter_model.answer_many(questions)]

    def expand(self, cases: Sequence[Case]) -> list[tuple[str, str] | CurationError]:
        """Ask for both prompts. The reverse one sees the frames backwards, and the inverse narration (our reading)."""
        model = self.filter_model if self.expansion_model is None else self.expansion_model
        if model is not self.filter_model:
            self.filter_model.release()
        forward = [(case.frames, prompts.expansion(case.pair.forward_short)) for case in cases]
        reverse = [(case.frames[::-1], prompts.expansion(case.pair.reverse_short)) for case in cases]
        texts = [_parse_or_error(parse_expansion, text) for text in model.answer_many([*forward, *reverse])]
        pairs = zip(texts[: len(cases)], texts[len(cases) :], strict=True)
        return [next((text for text in pair if isinstance(text, CurationError)), pair) for pair in pairs]


def _parse_or_error(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except CurationError as error:
        return error


@dataclass(frozen=True)
class AnnotationCurator:
    """Stand-in without a model: passes through the long prompts that come with the data (the kitchen's are templates).

    It judges nothing: every pair passes the filter. Say so wherever its results are shown.

    Attributes:
        prompts: narration id -> (forward prompt, reverse prompt).
    """

    prompts: dict[str, tuple[str, str]]
    reads_frames: ClassVar[bool] = False

    @classmethod
    def from_files(cls, *json_paths: str | Path) -> AnnotationCurator:
        """Read the prompts of annotation files in the Do-Undo layout."""
        pairs = [pair for path in json_paths for pair in doundo_bench.load(path, ".", require_images=False)]
        return cls({pair.id: (pair.forward_prompt, pair.reverse_prompt) for pair in pairs})

    def quality(self, cases: Sequence[Case]) -> list[Quality | CurationError]:
        """Pass: the annotated data is taken to be clean."""
        return [Quality(True, True, True)] * len(cases)

    def expand(self, cases: Sequence[Case]) -> list[tuple[str, str] | CurationError]:
        """Return the prompts that came with the data, or say that they have none for a pair."""
        lacking = CurationError("the annotation files have no long prompts for it")
        return [self.prompts.get(case.pair.segment.narration_id, lacking) for case in cases]


def curate(
    pairs: Iterable[MinedPair],
    frames_root: str | Path,
    curator: Curator,
    quarantine: Quarantine | None = None,
    num_frames: int = NUM_FRAMES,
    batch: int = 8,
    told: Callable[[str], None] = lambda line: None,
) -> list[ReversiblePair]:
    """Filter mined pairs and expand their prompts, in order.

    All pairs are filtered before the first prompt is written, so that only one of two models is in memory. Pairs
    without frames, that fail the filter, or whose answers cannot be used go to the quarantine with the reason (a
    warning counts them where it is None).

    Args:
        frames_root: folder of `<participant>/rgb_frames/<video>/frame_%010d.jpg`.
        num_frames: frames that the expansion sees (the paper: five, temporally sampled).
        batch: pairs that are asked about at a time.
        told: gets a line of progress after each batch.
    """
    judged: list[Case] = []  # read, whether they pass the filter or not
    with collecting(quarantine, "curation", judged) as bad:
        reasons: dict[str, str] = {}
        unfit: dict[str, str] = {}
        decode = curator.reads_frames
        cases = [case for pair in pairs if (case := _load_case(pair, frames_root, num_frames, decode, reasons))]
        passed = []
        for case, quality in _ask_batches(cases, curator.quality, batch, "filtered", told):
            if isinstance(quality, Quality) and quality.passed:
                passed.append(case)
            elif isinstance(quality, Quality):
                judged.append(case)
                unfit[case.pair.segment.narration_id] = f"fails the quality filter: {quality.failures()}"
            else:
                reasons[case.pair.segment.narration_id] = str(quality)
        kept = []
        for case, written in _ask_batches(passed, curator.expand, batch, "expanded", told):
            if isinstance(written, CurationError):
                reasons[case.pair.segment.narration_id] = str(written)
            else:
                judged.append(case)
                kept.append(_make_reversible(case, *written))
        for name, reason in reasons.items():
            bad.add(name, reason)
        for name, reason in unfit.items():
            bad.add(name, reason, unfit=True)
    return kept


def _load_case(pair: MinedPair, frames_root: str | Path, num_frames: int, decode: bool, reasons: dict) -> Case | None:
    try:
        frames = tuple(segment_frames(frames_root, pair.segment, num_frames))
        if problem := next(filter(None, (image_problem(frame, decode) for frame in frames)), None):
            raise FrameError(problem)
        return Case(pair, frames)
    except ValueError as error:  # no such frame, or a name that leads out of the frames' folder
        reasons[pair.segment.narration_id] = str(error)
        return None


def _ask_batches(
    cases: Sequence[Case], ask: Callable, size: int, done: str, told: Callable
) -> Iterator[tuple[Case, Any]]:
    for start in range(0, len(cases), size):
        part = cases[start : start + size]
        yield from zip(part, ask(part), strict=True)
        told(f"{start + len(part)} of {len(cases)} pairs {done}")


def _make_reversible(case: Case, forward: str, reverse: str) -> ReversiblePair:
    pair = case.pair
    return ReversiblePair(
        start=case.frames[0],
        end=case.frames[-1],
        forward_prompt=forward,
        reverse_prompt=reverse,
        forward_short=pair.forward_short,
        reverse_short=pair.reverse_short,
        narration=pair.segment.narration.strip(),
        verb=pair.verb,
        noun=pair.segment.noun,
        id=pair.segment.narration_id,
    )
