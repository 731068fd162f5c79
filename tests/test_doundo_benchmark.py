"""The benchmark's images: the authors' layout, resuming, ranks, and what is set aside."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_bagel_model import picture, small_model
from toy_bagel import words

from visdyn.datasets import doundo_bench
from visdyn.images import load
from visdyn.inference import do_undo as benchmark
from visdyn.inference.do_undo import BenchmarkError, Protocol, do_and_undo, run, unfinished

GT = Protocol("inverter")


class Inverter:
    """Inverts its source, tints it by its seed, and remembers what it was asked."""

    def __init__(self, fail_at: int | None = None):
        self.calls, self.fail_at = [], fail_at

    def edit(self, sources, prompts, seeds, steps=None, guidance=None):
        if self.fail_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append((list(sources), list(prompts), list(seeds)))
        pixels = [255 - np.asarray(load(source)) for source in sources]
        return [np.maximum(image, seed % 50).astype(np.uint8) for image, seed in zip(pixels, seeds, strict=True)]


@pytest.fixture
def bench(tmp_path):
    """Five released-style rows with their frames; returns the annotation file and the frames' root."""
    rows = []
    for number in range(5):
        row = {"narration_id": f"P03_22_{number}", "participant_id": "P03", "video_id": "P03_22"}
        row |= {"start_frame": 10 * number + 1, "stop_frame": 10 * number + 2, "narration": "open door"}
        row |= {"verb_class": 3, "noun_class": 8, "forward_prompt": "open it", "reverse_prompt": "close it"}
        folder = tmp_path / "frames/P03/rgb_frames/P03_22"
        folder.mkdir(parents=True, exist_ok=True)
        for frame in (row["start_frame"], row["stop_frame"]):
            picture(24, 16, frame).save(folder / f"frame_{frame:010d}.jpg")
        rows.append(row)
    (tmp_path / "annotations_test.json").write_text(json.dumps(rows))
    return tmp_path / "annotations_test.json", tmp_path / "frames"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".png")


ALL = sorted(f"P03_22_{n}_{direction}.png" for n in range(5) for direction in ("fwd", "rev"))


def pixels(folder) -> dict[str, bytes]:
    return {name: np.asarray(Image.open(folder / name)).tobytes() for name in names(folder)}


@pytest.mark.parametrize("reverse_from", ["gt", "generated"])
def test_images_are_those_of_do_and_undo_under_the_authors_names(bench, tmp_path, reverse_from):
    outcome = run(Inverter(), *bench, tmp_path / "out", replace(GT, reverse_from=reverse_from, seed=7), batch_size=2)
    assert (outcome.generated, outcome.finished_before, len(outcome.quarantine)) == (10, 0, 0)
    assert names(tmp_path / "out") == ALL
    pairs = doundo_bench.load(*bench)
    done, undone = do_and_undo(Inverter(), pairs, "long", reverse_from, seed=7)
    for pair, forward, reverse in zip(pairs, done, undone, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/{pair.id}_fwd.png")), forward)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/{pair.id}_rev.png")), reverse)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*ALL, "benchmark.json"])


def test_an_interrupted_run_goes_on_and_ends_with_the_same_images(bench, tmp_path):
    chained = replace(GT, reverse_from="generated")
    run(Inverter(), *bench, tmp_path / "whole", chained, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run(Inverter(fail_at=3), *bench, tmp_path / "cut", chained, batch_size=2)
    assert len(names(tmp_path / "cut")) == 6
    (tmp_path / "cut/P03_22_0_rev.png").unlink()
    editor = Inverter()
    outcome = run(editor, *bench, tmp_path / "cut", chained, batch_size=2)
    assert (outcome.generated, outcome.finished_before) == (5, 5)
    assert sum(len(sources) for sources, _, _ in editor.calls) == 5
    assert pixels(tmp_path / "cut") == pixels(tmp_path / "whole")
    editor = Inverter()
    assert run(editor, *bench, tmp_path / "cut", chained).generated == 0
    assert editor.calls == []


def test_a_file_is_whole_or_absent(bench, tmp_path, monkeypatch):
    def half(self, file, format):
        file.write_bytes(b"half a png")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", half)
        with pytest.raises(KeyboardInterrupt):
            run(Inverter(), *bench, tmp_path / "out", GT)
    assert unfinished(doundo_bench.load(*bench), tmp_path / "out") == [
        f"P03_22_{n}_{direction}.png" for n in range(5) for direction in ("fwd", "rev")
    ]
    run(Inverter(), *bench, tmp_path / "out", GT)
    assert unfinished(doundo_bench.load(*bench), tmp_path / "out") == []


def test_ranks_share_the_work_without_overlap(bench, tmp_path, monkeypatch):
    run(Inverter(), *bench, tmp_path / "one", GT)
    made = [run(Inverter(), *bench, tmp_path / "two", GT, rank=1, world_size=2)]
    assert names(tmp_path / "two") == [name for name in ALL if name[7] in "13"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made.append(run(Inverter(), *bench, tmp_path / "two", GT))
    assert [outcome.generated for outcome in made] == [4, 6]
    assert pixels(tmp_path / "two") == pixels(tmp_path / "one")


def test_seeds_depend_on_run_item_and_direction_only(bench, tmp_path):
    first, second, third = Inverter(), Inverter(), Inverter()
    run(first, *bench, tmp_path / "a", GT, batch_size=5)
    run(second, *bench, tmp_path / "b", GT, batch_size=1)
    run(third, *bench, tmp_path / "c", replace(GT, seed=1), batch_size=5)
    seeds = [{s for _, _, part in editor.calls for s in part} for editor in (first, second, third)]
    assert seeds[0] == seeds[1]
    assert len(seeds[0] | seeds[2]) == 20


def test_short_prompts_are_written_where_the_files_have_none(bench, tmp_path):
    editor = Inverter()
    run(editor, *bench, tmp_path / "out", replace(GT, prompts="short"), batch_size=5)
    assert {prompt for _, prompts, _ in editor.calls for prompt in prompts} == {"open door", "close the door"}


def test_a_folder_of_another_run_is_refused(bench, tmp_path):
    run(Inverter(), *bench, tmp_path / "out", GT)
    with pytest.raises(BenchmarkError, match=r"another run \(different reverse_from, seed\)"):
        run(Inverter(), *bench, tmp_path / "out", replace(GT, reverse_from="generated", seed=3))
    bench[0].write_text(bench[0].read_text().replace("close it", "shut it"))
    with pytest.raises(BenchmarkError, match="different annotations"):
        run(Inverter(), *bench, tmp_path / "out", GT)


def test_bad_images_are_set_aside_and_the_rest_is_made(bench, tmp_path):
    folder = bench[1] / "P03/rgb_frames/P03_22"
    (folder / "frame_0000000001.jpg").write_bytes(b"no image")
    (folder / "frame_0000000012.jpg").unlink()
    chained = replace(GT, reverse_from="generated")
    outcome = run(Inverter(), *bench, tmp_path / "out", chained, batch_size=2)
    assert names(tmp_path / "out") == [name for name in ALL if name[7] in "234"]
    reasons = {entry.item: entry.reason for entry in outcome.quarantine}
    assert "does not exist" in reasons["P03_22_1"]
    assert "cannot be decoded" in reasons["P03_22_0-forward"]
    assert "P03_22_0_fwd.png does not exist" in reasons["P03_22_0-reverse"]
    written = (tmp_path / "out/quarantine_0.csv").read_text().splitlines()
    assert len(written) == 4
    other = run(Inverter(), *bench, tmp_path / "other", chained, rank=1, world_size=2)
    assert len(other.quarantine) == 0


def test_an_id_that_stands_twice_is_taken_once(bench, tmp_path):
    rows = json.loads(bench[0].read_text())
    bench[0].write_text(json.dumps([rows[0] | {"narration_id": "P03_22_1"}, *rows[1:]]))
    outcome = run(Inverter(), *bench, tmp_path / "out", GT)
    twice = [entry.reason for entry in outcome.quarantine if entry.item == "P03_22_1"]
    assert twice == ["stands there twice; the first is kept"]


def test_ids_must_name_files(bench, tmp_path):
    rows = json.loads(bench[0].read_text())
    bench[0].write_text(json.dumps([rows[0] | {"narration_id": "../P03"}, *rows[1:]]))
    with pytest.raises(BenchmarkError, match="is no file name"):
        run(Inverter(), *bench, tmp_path / "out", GT)


def test_protocols_are_checked():
    with pytest.raises(ValueError, match="gt, generated"):
        Protocol("x", reverse_from="truth")
    with pytest.raises(ValueError, match="long, short"):
        Protocol("x", prompts="medium")


def test_the_command_runs_a_bagel(bench, tmp_path, capsys):
    model = small_model()
    model.tokenizer = words()
    model.save_pretrained(tmp_path / "bagel")
    arguments = [str(tmp_path / "bagel"), *map(str, bench), str(tmp_path / "out"), "--steps", "1", "--seed", "2"]
    benchmark.main([*arguments, "--reverse-from", "generated"])
    assert "10 images made, 0 were there; nothing quarantined" in capsys.readouterr().out
    record = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert (record["editor"], record["reverse_from"], record["seed"]) == (str(tmp_path / "bagel"), "generated", 2)
    assert Image.open(tmp_path / "out/P03_22_0_rev.png").size == (24, 16)


def test_an_image_that_the_editor_could_not_make_is_set_aside(bench, tmp_path):
    class Gaps(Inverter):
        def edit(self, sources, prompts, seeds, steps=None, guidance=None):
            made = super().edit(sources, prompts, seeds, steps, guidance)
            return [None, *made[1:]]

    out = tmp_path / "out"
    report = run(Gaps(), *bench, out, GT)
    assert report.generated < 10
    assert "the editor made no image of it" in "".join(path.read_text() for path in out.glob("quarantine*.csv"))
