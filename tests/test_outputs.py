"""Images on disk: made once, found again, made anew where what they were made of has changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from visdyn.evaluation.systems.outputs import (
    FORWARD,
    OutputFolder,
    SystemImages,
    Wanted,
    code_digest,
    file_name,
    keep,
    model_digest,
    produce,
)
from visdyn.images import load

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def wanted(count, source=PICTURE):
    return [Wanted(f"ag/{i}.png", source, f"open door {i}", i) for i in range(count)]


class Maker:
    """Counts what it is asked to make; dies before the image `dies_at`, refuses the one called `refused`."""

    def __init__(self, dies_at=None, refused=None):
        self.made, self.dies_at, self.refused = [], dies_at, refused

    def __call__(self, part):
        if self.dies_at in [one.file for one in part]:
            raise KeyboardInterrupt
        self.made += [one.file for one in part]
        return [None if one.file == self.refused else np.full_like(PICTURE, one.seed) for one in part]


def test_each_image_is_made_once_and_a_killed_run_goes_on(tmp_path):
    folder = OutputFolder.named(tmp_path, "ours", 0, {"model": "m"})
    dying = Maker(dies_at="ag/4.png")
    with pytest.raises(KeyboardInterrupt):
        produce(folder, wanted(6), dying, chunk=2)
    assert dying.made == ["ag/0.png", "ag/1.png", "ag/2.png", "ag/3.png"]
    second = Maker()
    paths = produce(folder, wanted(6), second, chunk=2)
    assert second.made == ["ag/4.png", "ag/5.png"]
    assert [int(np.asarray(load(path))[0, 0, 0]) for path in paths] == list(range(6))
    produce(folder, wanted(6), third := Maker(), chunk=2)
    assert third.made == []


def test_what_was_made_of_something_else_is_made_again(tmp_path):
    folder = OutputFolder.named(tmp_path, "ours", 0, {})
    source = tmp_path / "source.png"
    Image.fromarray(PICTURE).save(source)
    one = Wanted("ag/0.png", source, "open it", 1)
    produce(folder, [one], Maker(), 1)
    changes = [replace(one, prompt="close it"), replace(one, seed=2)]
    assert folder.has(one)
    assert not any(folder.has(other) for other in changes)
    Image.fromarray(255 - PICTURE).save(source)  # another image under the old name
    assert not folder.has(one)
    produce(folder, [one], again := Maker(), 1)
    assert again.made == ["ag/0.png"]
    folder.path("ag/0.png").write_bytes(b"cut")
    assert not folder.has(one)


def test_a_refused_image_is_none_and_asked_for_again(tmp_path):
    folder = OutputFolder.named(tmp_path, "ours", 0, {})
    paths = produce(folder, wanted(3), Maker(refused="ag/1.png"), 2)
    assert [path is None for path in paths] == [False, True, False]
    produce(folder, wanted(3), again := Maker(), 2)
    assert again.made == ["ag/1.png"]


def test_another_recipe_or_seed_has_another_folder_and_no_name_leads_out(tmp_path):
    roots = {OutputFolder.named(tmp_path, "ours", seed, {"steps": steps}).root for seed in (0, 1) for steps in (4, 8)}
    assert len(roots) == 4
    with pytest.raises(ValueError, match="leads out of"):
        OutputFolder.named(tmp_path, "ours", 0, {}).path("../../secret.png")
    assert file_name("../FLUX Kontext") == "_FLUX_Kontext"


def test_a_model_is_told_by_its_files_and_the_kits_code_by_its_bytes(tmp_path):
    assert model_digest("owner/name") == "owner/name"
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"1")
    first = model_digest(str(tmp_path / "model"))
    (tmp_path / "model/weights").write_bytes(b"22")
    assert model_digest(str(tmp_path / "model")) != first
    assert code_digest("models") != code_digest("models", "inference/generation.py")


def test_kept_images_are_files_of_their_own_format(tmp_path):
    jpeg = tmp_path / "elsewhere.jpg"
    Image.fromarray(PICTURE).save(jpeg)
    png = produce(OutputFolder.named(tmp_path / "made", "ours", 0, {}), wanted(1), Maker(), 1)[0]
    images = SystemImages("aurora", "Smart Edit", 0, "imported", "", {FORWARD: [jpeg, None, png]})
    names = {FORWARD: ["ag/7.png", "ag/8.png", "ag/9.png"]}
    assert keep(images, names, tmp_path / "outputs") == 2
    kept = sorted(path.relative_to(tmp_path / "outputs").as_posix() for path in (tmp_path / "outputs").rglob("*.png"))
    assert kept == ["aurora/Smart_Edit/ag/7.png", "aurora/Smart_Edit/ag/9.png"]
    with Image.open(tmp_path / "outputs/aurora/Smart_Edit/ag/7.png") as image:
        assert image.format == "PNG"
