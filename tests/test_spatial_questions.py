"""Reading SpatialMQA and EmbSpatial-Bench in their public layouts; what cannot be used is set aside."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from visdyn.datasets.bad_items import DatasetError
from visdyn.datasets.spatial_questions import load_embspatial, load_spatialmqa
from visdyn.images import ImageError, load
from visdyn.quarantine import Quarantine

SIX = ("on/above", "below", "in front of", "behind", "left of", "right of")
FOUR = SIX[2:]
SENTENCES = tuple(f"The drawer is {word} the bottle." for word in ("blocking", "beneath", "touching", "above"))


def _jpeg(colour, size=(40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _mqa_row(image="000000000001.jpg", question="Where is the fork?", options=FOUR, answer="right of", **extra):
    return {"image": image, "question": question, "options": list(options), "answer": answer, **extra}


def _emb_row(name="mp3d_57", options=("garage door", "cabinet", "table", "cart"), answer=2, **extra):
    row = {"data_source": "mp3d", "scene_id": "YV", "question_id": name, "question": "Which is nearest?"}
    row |= {"relation": "close", "image": base64.b64encode(_jpeg("red")).decode(), "answer_options": list(options)}
    return row | {"answer": answer, "objects": [{"name": "table", "bbox": [0, 396, 640, 84]}]} | extra


def _lines(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _assert_reasons(bad, expected):
    for entry, words in zip(bad, expected, strict=True):
        assert words in entry.reason


@pytest.fixture
def coco(tmp_path):
    folder = tmp_path / "COCO2017"
    folder.mkdir()
    (folder / "000000000001.jpg").write_bytes(_jpeg("blue"))
    return folder


def test_spatialmqa_is_read_in_its_public_layout(tmp_path, coco):
    rows = [_mqa_row(), _mqa_row(options=SIX, answer="on/above", question="Where\u2028is it?"), ""]
    first, second = load_spatialmqa(_lines(tmp_path / "test.jsonl", rows), coco)
    assert (first.source, first.answer, first.answer_text) == (coco / "000000000001.jpg", 3, "right of")
    assert (first.options, first.benchmark, first.relation, first.id) == (FOUR, "spatialmqa", "right of", "0")
    assert (second.answer, second.relation, second.id) == (0, "on/above", "1")
    assert load(first.image).size == (40, 30)


def test_spatialmqa_sets_what_it_cannot_use_aside_with_the_reason(tmp_path, coco):
    (coco / "bad.jpg").write_bytes(b"not an image")
    rows = [
        _mqa_row(),
        _mqa_row(answer="beside"),
        _mqa_row(image="absent.jpg"),
        _mqa_row(image="bad.jpg"),
        _mqa_row(options=["left of"], answer="left of"),
        _mqa_row(question=" "),
        "{cut off",
        "[1, 2]",
        _mqa_row(id="0"),
    ]
    bad = Quarantine()
    questions = load_spatialmqa(_lines(tmp_path / "test.jsonl", rows), coco, bad, decode=True)
    assert [question.id for question in questions] == ["0"]
    assert [entry.item for entry in bad] == [f"test.jsonl[{number}]" for number in range(1, 9)]
    expected = ["'beside' is not among", "does not exist", "cannot be decoded", "at least two"]
    expected += ["no text in field question", "is not valid JSON", "is a list", "id 0 of an earlier"]
    _assert_reasons(bad, expected)
    with pytest.warns(UserWarning, match="8 quarantined"):
        load_spatialmqa(tmp_path / "test.jsonl", coco, decode=True)


def test_spatialmqa_questions_can_be_read_without_their_images(tmp_path):
    path = _lines(tmp_path / "test.jsonl", [_mqa_row()])
    assert len(load_spatialmqa(path, tmp_path / "none", require_images=False)) == 1
    with pytest.raises(DatasetError, match="no usable question"), pytest.warns(UserWarning, match="does not exist"):
        load_spatialmqa(path, tmp_path / "none")
    with pytest.raises(DatasetError, match="does not exist"):
        load_spatialmqa(tmp_path / "absent.jsonl", tmp_path)


@pytest.mark.parametrize("as_lines", [False, True])
def test_embspatial_is_read_in_its_public_layout(tmp_path, as_lines):
    rows = [_emb_row(), _emb_row("ai2thor_799", SENTENCES, 1, data_source="ai2thor", relation="under")]
    path = tmp_path / "embspatial_bench.json"
    _lines(path, rows) if as_lines else path.write_text(json.dumps(rows))
    first, second = load_embspatial(path)
    assert (first.answer_text, first.group, first.relation, first.id) == ("table", "mp3d", "close", "mp3d_57")
    assert (second.answer_text, second.group, second.benchmark) == (SENTENCES[1], "ai2thor", "embspatial")
    assert load(first.image).size == (40, 30)
    assert first.image is not first.image  # decoded anew: a run over thousands holds no pixels


def test_embspatial_sets_what_it_cannot_use_aside_with_the_reason(tmp_path):
    rows = [_emb_row(), _emb_row("a", answer=4), _emb_row("b", answer=True), _emb_row("c", answer=-1)]
    rows += [_emb_row("d", image="%%%"), _emb_row("e", image=base64.b64encode(b"junk").decode()), _emb_row(), "text"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(rows))
    bad = Quarantine()
    assert [question.id for question in load_embspatial(path, bad, decode=True)] == ["mp3d_57"]
    expected = ["4 is not an index", "True is not an index", "-1 is not an index", "valid base64"]
    _assert_reasons(bad, [*expected, "cannot be decoded", "id mp3d_57 of an earlier", "is a str"])
    undecoded = load_embspatial(path, Quarantine())[-1]
    assert undecoded.id == "e"
    with pytest.raises(ImageError, match="question e cannot be decoded"):
        _ = undecoded.image
    path.write_text("[1, 2")
    with pytest.raises(DatasetError, match="not valid JSON"):
        load_embspatial(path)


# ---------------------------------------------------------------------------------------------- reading the answers
