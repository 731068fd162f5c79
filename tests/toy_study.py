"""Small human studies on disk, and a server of one, for the tests of the human study."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from visdyn.human_study.prepare import write_best_worst, write_pairwise
from visdyn.trajectory import ReversiblePair, Trajectory

SYSTEMS = ("Zebra-Net", "Yak-Net", "Xerus-Net", "Walrus-Net")  # names that no page has a reason to hold
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def image(number: int) -> np.ndarray:
    """Return an image of its own for every number: uint8 (16, 16, 3)."""
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def best_worst(folder: Path, per_subset: int = 3, action: str = "open the drawer", **settings) -> Path:
    """Write a study of two subsets and four systems."""
    items = [
        Trajectory(image(number), action, image(number), subset, str(number))
        for number, subset in enumerate(["ag"] * per_subset + ["kubric"] * per_subset)
    ]
    images = {name: [image(100 * row + column) for column in range(len(items))] for row, name in enumerate(SYSTEMS, 1)}
    return write_best_worst(folder, items, images, **settings)


def pairwise(folder: Path, count: int = 4, **settings) -> Path:
    """Write a study of three systems that do and undo an action."""
    pairs = [
        ReversiblePair(
            image(n), image(n + 50), "open it", "close it", "open", "close", "open", "open", "box", f"P01_{n}"
        )
        for n in range(count)
    ]
    images = {name: [(image(1), image(2))] * count for name in SYSTEMS[:3]}
    return write_pairwise(folder, pairs, images, **settings)


class Browser:
    """The least of a browser: one connection, cookies, forms; redirects are followed by hand."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.cookies: dict[str, str] = {}

    def send(self, method: str, path: str, fields: dict | None = None) -> tuple[int, str, str]:
        """Return status, body and Location of one request."""
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        body = urlencode(fields) if fields is not None else None
        self.connection.request(method, path, body, headers | (FORM if body is not None else {}))
        response = self.connection.getresponse()
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response.status, response.read().decode("utf-8", "replace"), response.getheader("Location", "")

    def join(self, name: str = "") -> None:
        """Consent."""
        form = re.search(r'name="form" value="([^"]+)"', self.send("GET", "/")[1])[1]
        status, body, _ = self.send("POST", "/start", {"form": form, "agree": "yes", "name": name})
        assert status == 303, body


@contextmanager
def serving(folder: Path, *options: str):
    """Run the study's own command; yields its port, and ends it with a kill, as a lost machine would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "visdyn", "study", "serve", str(folder), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _wait(process, port)
        yield port
    finally:
        process.kill()
        process.communicate()


def _wait(process: subprocess.Popen, port: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server ended at once: {process.stdout.read()}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"no server at port {port} after {seconds} s")
