"""LaViLa's classifier: the public names, shapes and outputs, strict loading, and Do-Undo's four accuracies."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_classifier import TINY, fill, save_classifier
from torch.nn import functional

from visdyn.datasets.action_classes import load_classes
from visdyn.datasets.bad_items import DatasetError
from visdyn.evaluation.metrics.action_accuracy import ActionClassifier, action_accuracy, make_clip
from visdyn.models.timesformer import TimeSformer, TimeSformerConfig, load_timesformer
from visdyn.quarantine import Quarantine

RNG = np.random.default_rng(0)
# Of the public class (facebookresearch/LaViLa at 8002b5a, `SpaceTimeTransformer` as CLIP_OPENAI_TIMESFORMER_LARGE
# makes it, under `VideoClassifierMultiHead`): its tensors, their elements, and the digest of "name shape" lines.
PUBLIC = 446, 408_314_987, "6227d1f3559bb21643cd23c40882220578f1ed02febddb5700634b698bcabda8"
# What the same class gives of the same tiny weights and clips, on torch 2.13.
GOLDEN = (
    [[-2.20776, 0.68802, -0.80971, 3.76067, -0.81665], [-0.28761, -0.16412, 0.11691, 2.36634, -0.05805]],
    [[-2.60494, 2.61936, 0.90001, -1.71169, 0.64471, 1.01462, 4.65415],
     [-4.01719, 1.02336, -1.24959, -3.08145, 0.00211, 2.26159, 6.68615]],
    [[4.37583, -2.86811, 0.06064, -2.33604, 0.28007, 3.24553, -2.88633, -1.05379, -1.8683],
     [3.63109, -0.68762, 0.92312, 0.19833, 0.0563, -1.37157, -3.06487, 0.80434, -1.05028]],
)  # fmt: skip


def test_names_and_shapes_are_the_public_checkpoints():
    with torch.device("meta"):
        tensors = TimeSformer(TimeSformerConfig()).state_dict()
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (len(lines), sum(tensor.numel() for tensor in tensors.values()), digest) == PUBLIC


@torch.no_grad()
def test_logits_are_those_of_the_public_class():
    model = fill(TimeSformer(replace(TINY, classes=(5, 7, 9))))
    clips = (
        torch.sin(0.37 * torch.arange(2 * 3 * 4 * 28 * 28, dtype=torch.float64) ** 2).reshape(2, 3, 4, 28, 28).float()
    )
    for found, golden in zip(model(clips), GOLDEN, strict=True):
        assert torch.allclose(found, torch.tensor(golden), atol=2e-5)


def test_a_checkpoint_is_loaded_whole_or_refused(tmp_path):
    path = save_classifier(tmp_path / "public.pth")
    model = load_timesformer(path)
    assert model.config == TINY
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fill(TimeSformer(TINY)).state_dict().items())
    save_file(OrderedDict(weights), tmp_path / "same.safetensors")
    assert load_timesformer(tmp_path / "same.safetensors").config == TINY

    def without(name, **more):
        kept = {key: value for key, value in weights.items() if not key.startswith(name)} | more
        torch.save({"state_dict": kept}, tmp_path / "broken.pth")
        return tmp_path / "broken.pth"

    with pytest.raises(ValueError, match=r"blocks\.1\.norm3\.bias"):
        load_timesformer(without("visual.blocks.1.norm3.bias"))
    with pytest.raises(ValueError, match=r"fc_cls\.0"):  # the checkpoints with one head
        load_timesformer(without("fc_cls.", **{"fc_cls.weight": torch.zeros(9, 128)}))
    with pytest.raises(ValueError, match="alpha_timeattn"):
        load_timesformer(without("none", **{"visual.blocks.0.alpha_timeattn": torch.zeros([])}))
    broken = torch.full_like(weights["visual.norm.bias"], torch.nan)
    with pytest.raises(ValueError, match=r"NaN or infinity: visual\.norm\.bias"):
        load_timesformer(without("none", **{"visual.norm.bias": broken}))
    with pytest.raises(ValueError, match="its blocks are not counted"):  # it would build a million of them
        load_timesformer(without("none", **{"visual.blocks.1000000.norm1.bias": torch.zeros([])}))
    torch.save({"state_dict": weights, "hook": Image.new}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        load_timesformer(tmp_path / "code.pth")
    with pytest.raises(FileNotFoundError, match="no action classifier at"):
        load_timesformer(tmp_path / "absent.pth")


@pytest.mark.parametrize("size", [(456, 256), (90, 70), (1280, 720)])
def test_a_clip_is_the_authors_blend_resize_and_crop(size):
    images = [RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(2)]
    squashed = [Image.fromarray(image).resize((456, 256), Image.Resampling.BILINEAR) for image in images]
    pair = torch.from_numpy(np.stack(squashed).astype(np.float32)).permute(3, 0, 1, 2)[None]  # (1, 3, 2, H, W)
    blended = functional.interpolate(pair, (16, 256, 456), mode="trilinear", align_corners=False)[0] / 255
    frames = functional.interpolate(blended.transpose(0, 1), (224, 399), mode="bilinear", antialias=True)[..., 88:312]
    mean, std = (torch.tensor(values)[:, None, None] / 255 for values in
                 ([108.3272985, 116.7460125, 104.09373615], [68.5005327, 66.6321579, 70.32316305]))  # fmt: skip
    wanted = ((frames - mean) / std).transpose(0, 1)
    clip = make_clip(*images)
    assert clip.shape == (3, 16, 224, 224)
    assert torch.allclose(clip, wanted, atol=1e-4)


def test_doing_is_asked_for_the_verb_and_undoing_for_its_opposite(monkeypatch):
    # An image says its classes: verb in the first channel, noun in the second; what stands before it does not matter.
    def predict(classifier, starts, ends):
        assert all(start.shape == (2, 2, 3) for start in starts)
        return np.array([end[0, 0, :2] for end in ends])

    monkeypatch.setattr(ActionClassifier, "predict", predict)
    classifier = ActionClassifier(None, "stub")

    def image(verb, noun):
        return np.tile(np.uint8([verb, noun, 0]), (2, 2, 1))

    classes = {"open": (3, 7), "take": (0, 7), "move": (11, 7), "remove": (12, 7)}
    ids = [*classes, "unknown"]
    black = [image(0, 0)] * 5
    done = action_accuracy(
        classifier, black, [image(3, 7), image(0, 8), image(0, 7), image(12, 7), image(3, 7)], ids, classes, False
    )
    assert done["action_accuracy"][:4].tolist() == [1, 1, 0, 1]
    assert done["noun_accuracy"][:4].tolist() == [1, 0, 1, 1]
    undone = action_accuracy(
        classifier, black, [image(4, 7), image(1, 7), image(11, 7), image(5, 7), image(4, 7)], ids, classes, True
    )
    assert undone["action_accuracy"][:4].tolist() == [1, 1, 1, 0]  # the authors know no opposite of remove
    for values in (*done.values(), *undone.values()):
        assert np.isnan(values[4])


def test_predictions_do_not_depend_on_the_batch(tmp_path):
    one = ActionClassifier.from_file(save_classifier(tmp_path / "tiny.pth"), batch_size=2)
    assert one.name == "tiny.pth"
    images = [RNG.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(6)]
    found = one.predict(images[:3], images[3:])
    assert found.shape == (3, 2)
    clips = torch.stack([make_clip(*pair, 4, 28) for pair in zip(images[:3], images[3:], strict=True)])
    verbs, nouns, _ = one.model(clips)
    assert found.tolist() == torch.stack([verbs.argmax(1), nouns.argmax(1)], 1).tolist()
    assert one.predict([], []).shape == (0, 2)


def test_classes_of_the_released_annotations(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text('[{"narration_id": "a", "verb_class": 3, "noun_class": 0}, {"narration_id": "b", "verb_class": 1},'
                    ' {"narration_id": "c", "verb_class": "", "noun_class": "2"}]')  # fmt: skip
    assert load_classes(path) == {"a": (3, 0)}
    (tmp_path / "same.csv").write_text("narration_id,verb_class,noun_class\na,3,0\n")
    assert load_classes(tmp_path / "same.csv") == {"a": (3, 0)}
    (tmp_path / "same.csv").write_text("narration_id,verb_class,noun_class\na,open,0\n")
    with pytest.raises(DatasetError, match="a: classes open and 0"):
        load_classes(tmp_path / "same.csv")
    (tmp_path / "same.csv").write_text("narration_id,verb_class,noun_class\na,open,0\nb,1\nc,4,5\n")
    assert load_classes(tmp_path / "same.csv", quarantine := Quarantine()) == {"c": (4, 5)}
    assert [entry.item for entry in quarantine] == ["a"]  # b is set aside by the reader of the pairs
    path.write_text('[{"narration_id": ["a"], "verb_class": 3, "noun_class": 0}, 7]')
    assert load_classes(path) == {}
    with pytest.raises(DatasetError, match="does not exist"):
        load_classes(tmp_path / "absent.json")


def test_an_answer_that_is_no_number_is_unmeasured():
    model = fill(TimeSformer(TINY))
    with torch.no_grad():
        model.fc_cls[0].bias[3] = torch.nan
    image = np.zeros((32, 32, 3), np.uint8)
    found = action_accuracy(ActionClassifier(model, "broken"), [image], [image], ["a"], {"a": (0, 0)}, False)
    assert np.isnan(found["action_accuracy"]).all()
    assert not np.isnan(found["noun_accuracy"]).any()
