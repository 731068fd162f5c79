"""An image editor over HTTP, against a real server on localhost that answers `images/edits`."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections import Counter
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import serving
from PIL import Image

from visdyn.endpoint.client import EndpointSettings, EndpointStoppedError
from visdyn.evaluation.systems.outputs import OutputFolder, Wanted, produce
from visdyn.models.editors.endpoint_editor import ApiEditor, read_edited

KEY = "sk-visdyn-edits-0123456789"
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def encoded(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def inverted(image):
    return 200, json.dumps({"data": [{"b64_json": encoded(255 - image)}], "usage": {"output_tokens": 7}})


class EditServer(ThreadingHTTPServer):
    """`script(name, nth, image)` gives (status, text) for the nth request for "item <name>"."""

    daemon_threads, block_on_close = True, False

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.seen, self.fields, self.keys, self.lock = script, Counter(), [], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        parts = {}
        for part in BytesParser().parsebytes(head + body).walk():
            name = part.get_param("name", header="content-disposition")
            if name:
                parts[name] = part.get_payload(decode=True)
        image = np.asarray(Image.open(io.BytesIO(parts.pop("image"))))
        fields = {name: value.decode() for name, value in parts.items()}
        item = found[1] if (found := re.search(r"item (\w+)", fields["prompt"])) else fields["prompt"]
        with self.server.lock:
            self.server.seen[item] += 1
            self.server.fields.append({**fields, "path": self.path})
            self.server.keys.append(self.headers["Authorization"])
        status, text = self.server.script(item, self.server.seen[item], image)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def serve(monkeypatch):
    yield from serving(monkeypatch, EditServer, "EDIT_KEY", KEY)


def editor(server, **options):
    settings = EndpointSettings(server.url, "editor-1", "EDIT_KEY", backoff_s=0.01, max_attempts=3, concurrency=2)
    return ApiEditor(settings, {"size": "auto", "quality": "low"}, 0.5, **options)


def edit(one, names):
    return one.edit([PICTURE] * len(names), [f"open item {name}" for name in names], list(range(len(names))))


def test_images_go_out_as_a_form_and_come_back_in_order(serve):
    server, lines = serve(lambda name, nth, image: inverted(image - int(name))), []
    found = edit(editor(server, report=lines.append), "0123")
    assert [np.array_equal(image, 255 - (PICTURE - name)) for name, image in enumerate(found)] == [True] * 4
    wanted = {"model": "editor-1", "n": "1", "size": "auto", "quality": "low", "path": "/v1/images/edits"}
    assert all(wanted.items() <= fields.items() for fields in server.fields)
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert lines == ["editor-1: 4 images made, 0 failed, 2.00 USD"]


def test_what_fails_is_tried_again_then_left_out_with_its_reason(serve, tmp_path, capfd):
    refused = (400, json.dumps({"error": {"message": f"safety {KEY}"}}))
    scripts = {
        "0": lambda nth, image: (429, "{}") if nth == 1 else inverted(image),
        "1": lambda nth, image: (500, "") if nth < 3 else inverted(image),
        "2": lambda nth, image: (200, '{"data": [{"b64_json": "no image"}]}') if nth == 1 else inverted(image),
        "3": lambda nth, image: refused,
        "4": lambda nth, image: (200, json.dumps({"data": [{"b64_json": encoded(image)[:40]}]})),
    }
    server = serve(lambda name, nth, image: scripts[name](nth, image))
    one = editor(server, log=tmp_path / "requests.jsonl")
    found = edit(one, "01234")
    assert [image is None for image in found] == [False, False, False, True, True]
    assert server.seen == {"0": 2, "1": 3, "2": 2, "3": 1, "4": 3}
    assert (one.made, one.failed) == (3, 2)
    log = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert Counter(line["outcome"] for line in log) == {"made": 3, "failed": 2}
    assert {"output_tokens": 7} in [line.get("usage") for line in log]
    written = (tmp_path / "requests.jsonl").read_text() + "".join(capfd.readouterr())
    assert KEY not in written


def test_made_images_are_never_asked_for_again(serve, tmp_path, monkeypatch):
    server = serve(lambda name, nth, image: (402, "{}") if name == "3" else inverted(image))
    one, folder = editor(server, report=lambda line: None), OutputFolder.named(tmp_path, "api", 0, {})
    wanted = [Wanted(f"ag/{name}.png", PICTURE, f"open item {name}", 0) for name in range(6)]

    def make(part):
        return one.edit([w.source for w in part], [w.prompt for w in part], [w.seed for w in part])

    with pytest.raises(EndpointStoppedError, match="wants to be paid first"):
        produce(folder, wanted, make, 2)
    assert [path is not None for path in folder.found(wanted)] == [True, True, False, False, False, False]
    server.script = lambda name, nth, image: inverted(image)
    again = editor(server, report=lambda line: None)
    one = again
    first = Counter(server.seen)
    assert all(produce(folder, wanted, make, 2))
    assert set(server.seen - first) == set("2345")


def test_what_is_no_image_is_said():
    assert read_edited({"data": [{"url": "data:image/png;base64," + encoded(PICTURE)}]}).image.shape == PICTURE.shape
    for body, reason in (({}, "holds no image"), ({"data": [{"url": "https://x/y.png"}]}, "names an address"),
                         ({"data": [{"b64_json": "****"}]}, "cannot be decoded"), ([], "holds no image")):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            read_edited(body)


def test_steps_guidance_and_a_missing_key_are_refused(serve, monkeypatch):
    one = editor(serve(lambda name, nth, image: inverted(image)))
    with pytest.raises(ValueError, match="no sampling steps"):
        one.edit([PICTURE], ["open item 1"], [0], steps=3)
    monkeypatch.delenv("EDIT_KEY")
    with pytest.raises(EndpointStoppedError, match="EDIT_KEY with the endpoint's key is not set"):
        edit(one, "1")
