"""Vision-language models of transformers (the papers: the Qwen-VL families) as the curation's `VisionLanguageModel`.

They are loaded as the probes load them (`visdyn.models.understanding.understanding_model`): by the class of their
family, with PIL preprocessing and the checkpoint's chat template, so that nothing beyond transformers is needed (no
torchvision, no processor package).
"""

from __future__ import annotations

from collections.abc import Sequence

from visdyn.mining.curation import Question


class TransformersVLM:
    """Greedy answers, a batch of questions in one generate call.

    Args:
        name_or_path: hub id or folder of a family that `visdyn.models.understanding.families` lists.
        max_new_tokens: longest answer; 300 holds a 120-word prompt with room.
        device: "cuda", "cpu", ...
        dtype: "auto" (the checkpoint's), "bfloat16", "float32", ...
        batch_size: questions in one generate call.

    Nothing is loaded before the first answer.
    """

    def __init__(
        self,
        name_or_path: str,
        max_new_tokens: int = 300,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 8,
    ) -> None:
        self.name_or_path, self.max_new_tokens = name_or_path, max_new_tokens
        self.device, self.dtype, self.batch_size = device, dtype, batch_size
        # No batch size: what a question is asked beside does not change its answer, rounding apart.
        self.name = f"{name_or_path} greedy max_new_tokens={max_new_tokens} dtype={dtype}"
        self._model = None

    def answer_many(self, questions: Sequence[Question]) -> list[str]:
        """Return the answers to questions (images, text), in their order."""
        texts = []
        for start in range(0, len(questions), self.batch_size):
            texts += self._answer_batch(questions[start : start + self.batch_size])
        return texts

    def release(self) -> None:
        """Free the weights; a later question loads them again."""
        if self._model is not None:
            import torch

            self._model = None
            torch.cuda.empty_cache()

    def _answer_batch(self, questions: Sequence[Question]) -> list[str]:
        import torch

        from visdyn.models.understanding.inputs import make_query

        model = self.load_model()
        queries = [make_query(model.chat.prompt(len(images), text), (), images) for images, text in questions]
        with torch.inference_mode():
            inputs, _ = model.inputs(queries, padding_side="left")
            # Qwen's generation config asks for a repetition penalty, which would not be greedy decoding.
            tokens = model.lm.generate(
                **inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=self.max_new_tokens
            )
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in model.chat.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def load_model(self):
        if self._model is None:
            from visdyn.models.understanding.understanding_model import UnderstandingModel

            self._model = UnderstandingModel.from_pretrained(self.name_or_path, self.device, self.dtype)
        return self._model
