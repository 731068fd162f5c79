"""What both benchmarks' evaluations load: encoders, and captions of images whose true states nobody knows."""

from __future__ import annotations

from visdyn.evaluation.metrics.captions import Captioner, read_captions
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.params.evaluation import Captions, EncoderSet
from visdyn.paths import expanded
from visdyn.pipeline.stage import Stage


def load_encoders(stage: Stage, named: EncoderSet) -> tuple[ImageTextEncoder | None, ImageEncoder | None]:
    """Load CLIP and DINO with a preset's preprocessing; None for one whose name is empty."""
    clip, dino = (stage.reference(expanded(name)) for name in (named.clip, named.dino))
    return (
        ImageTextEncoder.from_pretrained(clip, named.preset, stage.device) if named.clip else None,
        ImageEncoder.from_pretrained(dino, named.preset, stage.device) if named.dino else None,
    )


def load_captions(stage: Stage, captions: Captions) -> tuple[dict, Captioner | None]:
    """Return the captions of the file that a section's `captions` names, and the captioning model or None."""
    known = read_captions(stage.located(captions.file, "captions.file")) if captions.file else {}
    name = expanded(captions.model)
    cache = stage.root / "data/kept/captions.sqlite"
    return known, Captioner(stage.reference(name), stage.device, cache) if name else None
