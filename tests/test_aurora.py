"""The AURORA reader, on a small tree and on the public benchmark."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from visdyn.datasets import aurora
from visdyn.datasets.bad_items import DatasetError
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine

BENCH = shared_data() / "data" / "aurora-bench" if shared_data() else None
needs_bench = pytest.mark.skipif(
    BENCH is None or not (BENCH / "test.json").is_file(), reason="the public AURORA-Bench is not at hand"
)


def _item(number, task="ag", **changes):
    names = {"input": f"data/{task}/images/{number}-a.png", "output": f"data/{task}/images/{number}-b.png"}
    return {"instruction": f"do {number}", "task": task, **names, **changes}


@pytest.fixture
def root(tmp_path):
    for number in range(3):
        for side in "ab":
            path = tmp_path / f"data/ag/images/{number}-{side}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    return tmp_path


def _write(root, items, name="test.json"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(items))


def test_bench_keeps_order_and_index_as_id(root):
    _write(root, [_item(1), _item(0, "clevr"), _item(2)])
    read = aurora.load_bench(root)
    assert [(item.id, item.subset, item.action) for item in read] == [("0", "ag", "do 1"), ("2", "ag", "do 2")]
    assert read[0].source == root / "data/ag/images/1-a.png"


def test_unusable_items_are_set_aside_with_their_reason(root):
    (root / "data/ag/images/2-b.png").write_bytes(b"")
    bad = [_item(7), _item(2), _item(0, instruction=" "), _item(1, output=None), "text"]
    _write(root, [_item(0), *bad])
    quarantine = Quarantine()
    assert [item.id for item in aurora.load_bench(root, quarantine=quarantine)] == ["0"]
    reasons = [entry.reason for entry in quarantine]
    for part, reason in zip(
        ("does not exist", "is empty", "no instruction", "no output", "is a str"), reasons, strict=True
    ):
        assert part in reason
    assert [entry.item for entry in quarantine] == [f"test.json[{i}]" for i in range(1, 6)]
    with pytest.warns(UserWarning, match="5 quarantined"):
        aurora.load_bench(root)


def test_decoding_finds_a_damaged_image(root):
    (root / "data/ag/images/1-a.png").write_bytes(b"\x89PNG not really")
    _write(root, [_item(0), _item(1)])
    quarantine = Quarantine()
    assert len(aurora.load_bench(root, quarantine=quarantine, decode=True)) == 1
    assert "cannot be decoded" in quarantine.items[0].reason


def test_images_outside_the_root_and_items_without_a_task_are_set_aside(root):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root.parent / "secret.png")
    outside = [_item(0, input="../secret.png"), _item(0, output=str(root.parent / "secret.png"))]
    items = [_item(1), *outside, _item(2, task=["ag"]), {key: text for key, text in _item(2).items() if key != "task"}]
    _write(root, items)
    quarantine = Quarantine()
    assert [item.id for item in aurora.load_bench(root, quarantine=quarantine)] == ["0"]
    for entry, reason in zip(quarantine, ("leads out", "leads out", "has no task", "has no task"), strict=True):
        assert reason in entry.reason
    _write(root, [_item(1), outside[0]], "data/ag/train.json")
    quarantine = Quarantine()
    assert len(aurora.load_train(root, "ag", quarantine, require_images=False)) == 1
    assert "leads out" in quarantine.items[0].reason
    (read,) = aurora.load_bench(root, targets="optional", quarantine=Quarantine())[1:]
    assert read.target is None


def test_a_list_of_instructions_gives_its_first(root):
    _write(root, [_item(0, instruction=["first", "second"])], "data/ag/train.json")
    assert [item.action for item in aurora.load_train(root, "ag")] == ["first"]


def test_training_images_may_be_absent_on_request(root):
    _write(root, [_item(0), _item(9)], "data/ag/train.json")
    assert [item.id for item in aurora.load_train(root, "ag", require_images=False)] == ["0", "1"]
    quarantine = Quarantine()
    assert len(aurora.load_train(root, "ag", quarantine)) == 1
    assert quarantine.items[0].item == "ag/train.json[1]"


def test_malformed_files_are_refused(root):
    with pytest.raises(DatasetError, match="does not exist"):
        aurora.load_bench(root)
    _write(root, {"items": []})
    with pytest.raises(DatasetError, match="holds a dict"):
        aurora.load_bench(root)
    (root / "test.json").write_text("[{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        aurora.load_bench(root)
    _write(root, [_item(0)])
    with pytest.raises(DatasetError, match=r"no item of subset kubric; it has ag"):
        aurora.load_bench(root, ["ag", "kubric"])


@needs_bench
def test_the_public_benchmark_has_248_usable_items():
    quarantine = Quarantine()
    read = aurora.load_bench(BENCH, quarantine=quarantine)
    counts = {"magicbrush": 50, "ag": 50, "something": 48, "whatsup": 50, "kubric": 50}
    assert Counter(item.subset for item in read) == counts
    assert [entry.item for entry in quarantine] == ["test.json[135]", "test.json[147]"]
    by_id = {item.id: item for item in read}
    assert by_id["0"].action == "Put a cat on the seat."
    assert by_id["350"].subset == "kubric"


@needs_bench
def test_items_without_a_target_are_set_aside():
    quarantine = Quarantine()
    assert aurora.load_bench(BENCH, ["clevr"], quarantine) == []
    assert len(quarantine) == 50


@needs_bench
def test_the_public_training_annotations():
    assert len(aurora.load_train(BENCH, "ag", require_images=False)) == 11373
    quarantine = Quarantine()
    assert aurora.load_train(BENCH, "magicbrush", quarantine) == []
    assert len(quarantine) == 8807
