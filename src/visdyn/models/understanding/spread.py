"""A model that answers in words on several GPUs or nodes: one copy a process, the same batches, the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from visdyn.compute.gpus import open_processes
from visdyn.mining.curation import Question, VisionLanguageModel


class SpreadVLM:
    """Hands a `VisionLanguageModel` out to processes, each with a GPU of its own where there are some.

    Questions are cut into the batches that one process would answer, so that no answer depends on how many there are.
    A process that is killed is replaced, and its batch asked again.

    Args:
        model: not loaded yet, to be pickled; its `batch_size` is how many questions it answers at once.
        count: of the processes, which start at the first question.
    """

    def __init__(self, model: VisionLanguageModel, count: int) -> None:
        self.name, self.batch_size, self._size = model.name, model.batch_size * count, model.batch_size
        self._processes = open_processes(_answer_batch, model, count)

    def answer_many(self, questions: Sequence[Question]) -> list[str]:
        """Return the answers to questions (images, text), in their order."""
        batches = [questions[start : start + self._size] for start in range(0, len(questions), self._size)]
        with ThreadPoolExecutor(self._processes.count) as threads:
            return [text for texts in threads.map(self._processes.call, batches) for text in texts]

    def release(self) -> None:
        """End the processes, and so free the weights; a later question starts them again."""
        self._processes.end()


def _answer_batch(model: VisionLanguageModel, questions: Sequence[Question]) -> list[str]:
    return model.answer_many(questions)
