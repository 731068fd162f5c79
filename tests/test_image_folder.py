"""Predictions made elsewhere: the three layouts, and a report of all that is missing or odd."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from visdyn.evaluation.systems.image_folder import FIELDS, ImageFolder
from visdyn.images import load
from visdyn.trajectory import Trajectory

GREY = np.full((30, 40, 3), 128, np.uint8)


def _items(*keys):
    return [Trajectory(GREY, "open it", GREY, subset, name) for subset, name in keys]


ITEMS = _items(("ag", "50"), ("ag", "51"), ("kubric", "350"))


def _save(path, size=(40, 30), colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "got"
    root.mkdir()
    return root


def _index(folder, *rows, name="index.csv", header=("subset", "id", "path")):
    with open(folder / name, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_images_are_found_by_subset_and_id(folder):
    for item in ITEMS:
        _save(folder / item.subset / f"{item.id}.png")
    report = ImageFolder(folder).find(ITEMS)
    assert [entry.status for entry in report.entries] == ["found"] * 3
    assert report.images() == [folder / "ag/50.png", folder / "ag/51.png", folder / "kubric/350.png"]
    assert report.summary() == "got: 3 of 3 items have an image"
    assert report.unused == []


def test_images_are_found_flat_where_ids_are_unique(folder):
    for name in ("50.png", "51.jpg", "350.webp"):
        _save(folder / name)
    assert len(ImageFolder(folder).find(ITEMS).found) == 3
    doubled = ImageFolder(folder).find(_items(("ag", "50"), ("kubric", "50"), ("kubric", "350")))
    assert [entry.status for entry in doubled.entries] == ["missing", "missing", "found"]


def test_a_subset_folder_goes_before_the_flat_file(folder):
    _save(folder / "50.png", colour="blue")
    _save(folder / "ag" / "50.png")
    report = ImageFolder(folder).find(ITEMS[:1])
    assert report.images() == [folder / "ag/50.png"]
    assert report.unused == [folder / "50.png"]


def test_an_index_goes_before_all(folder):
    _save(folder / "out" / "first.png")
    _save(folder / "ag" / "51.png")
    _index(folder, ("ag", "50", "out/first.png"), ("kubric", "350", "out/none.png"), ("ag", "51", ""))
    report = ImageFolder(folder, name="GoT").find(ITEMS)
    assert [entry.status for entry in report.entries] == ["found", "missing", "missing"]
    assert report.entries[2].reason == "no file none.png"
    assert report.entries[1].reason == "no image of this item in got"
    assert report.unused == [folder / "ag/51.png"]
    assert report.summary().startswith("GoT: 1 of 3 items have an image; 2 missing; first: ag/51")


def test_an_index_elsewhere_is_given_by_name(folder, tmp_path):
    _save(folder / "a.png")
    _index(tmp_path, ("ag", "50", "got/../got/a.png"), name="map.csv")
    report = ImageFolder(folder, index=tmp_path / "map.csv").find(ITEMS[:1])
    assert report.summary() == "got: 1 of 1 items have an image"  # and no file that belongs to no item


def test_what_is_missing_broken_or_there_twice_is_said(folder):
    (folder / "ag").mkdir()
    (folder / "ag" / "50.png").write_bytes(b"\x89PNG\r\n\x1a\ncut off")
    _save(folder / "ag" / "51.png")
    _save(folder / "ag" / "51.jpg")
    _save(folder / "leftover.png")
    (folder / "notes.txt").write_text("not an image")
    report = ImageFolder(folder).find(ITEMS)
    assert [entry.status for entry in report.entries] == ["unreadable", "ambiguous", "missing"]
    assert report.images() == [None, None, None]
    assert report.images(resize=True) == [None, None, None]
    assert report.unused == [folder / "leftover.png"]
    summary = report.summary()
    for words in (
        "0 of 3",
        "1 missing",
        "1 unreadable",
        "1 ambiguous",
        "first: ag/50 (image",
        "1 files belong to no item",
    ):
        assert words in summary
    assert "51.png and 51.jpg both exist" in report.entries[1].reason


def test_other_sizes_are_said_and_resized_on_request(folder):
    for item, size in zip(ITEMS, [(80, 60), (512, 512), (40, 30)], strict=True):
        _save(folder / item.subset / f"{item.id}.png", size)
    report = ImageFolder(folder).find(ITEMS)
    assert [entry.wrong_size for entry in report.entries] == [True, True, False]
    assert [entry.wrong_shape for entry in report.entries] == [False, True, False]
    assert (
        "2 of another size than their source (1 also of another shape), first: 50.png is 80x60, its source 40x30"
        in (report.summary())
    )
    assert [load(image).size for image in report.images()] == [(80, 60), (512, 512), (40, 30)]
    assert [load(image).size for image in report.images(resize=True)] == [(40, 30)] * 3


def test_the_report_is_written_item_by_item(folder, tmp_path):
    _save(folder / "ag" / "50.png", (80, 60))
    ImageFolder(folder).find(ITEMS[:2]).write(tmp_path / "deep" / "report.csv")
    with open(tmp_path / "deep" / "report.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == FIELDS
    assert rows[1] == ["ag", "50", "found", "50.png", "80", "60", "40", "30", ""]
    assert rows[2] == ["ag", "51", "missing", "", "", "", "40", "30", "no image of this item in got"]


def test_names_do_not_lead_out_of_the_folder(folder, tmp_path):
    _save(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="lies outside"):
        ImageFolder(folder).find(_items(("..", "secret")))
    _index(folder, ("ag", "50", "../secret.png"))
    with pytest.raises(ValueError, match="lies outside"):
        ImageFolder(folder)
    (folder / "index.csv").unlink()
    (folder / "50.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="lies outside"):
        ImageFolder(folder).find(ITEMS[:1])


def test_bad_folders_indices_and_items_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ImageFolder(folder, index=tmp_path / "none.csv")
    with pytest.raises(ValueError, match="ag/50 occurs twice"):
        ImageFolder(folder).find([ITEMS[0], ITEMS[0]])
    _index(folder, ("ag", "a.png"), header=("subset", "path"))
    with pytest.raises(ValueError, match="lacks the column id"):
        ImageFolder(folder)
    _index(folder, ("ag", "50", "a.png"), ("ag", "50", "b.png"))
    with pytest.raises(ValueError, match="line 3 names item ag/50 again"):
        ImageFolder(folder)
