"""The explorer's questions, asked by mouse in a real browser: steps, seconds, whether the answer is in sight, pictures.

`python benchmarks/explorer_by_mouse.py [--profile FOLDER] [--out FOLDER]` serves the page as `visdyn play` does, from
the profile's models or from `data/pack`, and asks what `docs/explorer.md` lists. A step is a click, a choice in a list,
or a word typed; seconds are counted from the last step until the answer stands there. An answer counts as in sight when
nothing has to be scrolled for it. Needs Playwright (`pip install "visdyn[browser]"`) and a Chromium (`playwright
install chromium`, or the one that VISDYN_CHROMIUM or PATH names).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

SIZES = {"desktop": (1400, 1000), "laptop": (1366, 768)}
_START_SECONDS = 600  # of the server: a busy machine imports slowly
_PATIENCE = 900  # seconds for an answer: the first one waits until the pack is unpacked and the kitchen is drawn
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Asked:
    """One question: its steps, the seconds from the last step to the answer, what was said, and what of it was out of
    sight at each size of window."""

    question: str
    steps: int
    seconds: float
    said: str
    hidden: dict[str, list[str]]


class Visitor:
    """Somebody at the page, who clicks, chooses and types, and looks whether the answer is in sight.

    Attributes:
        asked: the questions so far.
        elsewhere: addresses of other machines that the page asked for something; there should be none.
    """

    def __init__(self, page: Page, pictures: Path | None = None, patience: float = _PATIENCE) -> None:
        self.page, self.pictures, self.asked, self.elsewhere = page, pictures, [], []
        self._steps, self._last = 0, 0.0
        page.set_default_timeout(1000 * patience)
        page.on("request", lambda request: self._note_address(request.url))

    def open(self, address: str) -> None:
        """Open the page and wait for its first answer."""
        self._start()
        self.page.set_viewport_size(dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
        self._count()
        self.page.goto(address, wait_until="commit")
        self._finish("the page, with its first answer", self._answer("Copy as code"))

    def ask_everything(self, folder: Path) -> None:
        """Ask what `docs/explorer.md` lists; `folder` takes the images that are brought along."""
        self.find_worst()
        self.compare_arms()
        self.rank_candidates()
        self.map_tokens()
        self.ask_inverse()
        self.do_and_undo()
        self.try_another_action()
        self.bring_images(folder)

    def find_worst(self, verb: str = "pick up") -> None:
        """Find on which items of a verb the system fails most: the list's first page."""
        self._start()
        lists = self.page.locator("select")
        verbs = lists.nth(1)
        offered = [text.replace("\xa0", " ") for text in verbs.locator("option").all_text_contents()]
        chosen = verb if verb in offered else offered[1]
        self._choose(verbs, chosen)
        self._choose(lists.nth(4), "worst first")
        names = self._settled_names(chosen)
        thumbnails = self.page.locator("button[title*='/']")
        self._finish(f"the worst of {chosen!r}", thumbnails.last, f"{len(names)} items: {', '.join(names)}")

    def _settled_names(self, verb: str) -> list[str]:
        """Wait until the list shows a verb's items alone and stays as it is: each choice sends it anew."""
        before: list[tuple[str, str]] = []
        while True:
            self.page.wait_for_timeout(1000)
            found = [(one.get_attribute("title"), one.inner_text())
                     for one in self.page.locator("button[title*='/']").all()]  # fmt: skip
            if found and found == before and all(text.startswith(verb) for _, text in found):
                return [name for name, _ in found]
            before = found

    def compare_arms(self) -> None:
        """Take the worst item in hand: every arm's image from one seed."""
        self._start()
        item = self.page.locator("button[title*='/']").first
        action, name = item.inner_text(), item.get_attribute("title")
        self._click(item)
        self.page.get_by_text(name, exact=True).first.wait_for()
        answer = self._answer(f"true: {action}")
        self._finish(f"all arms on {action!r}", answer, self._words(answer))

    def rank_candidates(self) -> None:
        """Ask whom of K candidates the IDM, the arm itself and the judge would choose."""
        self._start()
        self._open_tab("Best of K")
        answer = self._answer("IDM (sorted by it)")
        self._finish("K candidates, the IDM's choice framed", answer, self._words(answer))

    def map_tokens(self) -> None:
        """Ask where the recognition-weighted loss looks."""
        self._start()
        self._open_tab("Token maps")
        answer = self._answer("of the weight")
        self._finish("where the weighted loss looks", answer, self._words(answer))

    def ask_inverse(self) -> None:
        """Ask what the IDM thinks happened between the item's two images."""
        self._start()
        self._open_tab("What the IDM thinks")
        answer = self._answer("It says:")
        self._finish("what the IDM thinks happened", answer, self._words(answer))

    def do_and_undo(self) -> None:
        """Let a model do the item's action and undo it; take the second step back and bring it again."""
        self._start()
        self._open_tab("Do and undo")
        self._press("Do the action")
        self._answer("1. ")
        self._press("Undo by model")
        self._answer("2. ")
        self._press("Take back")
        self.page.locator(".visdyn-answer:visible", has_text="2. ").wait_for(state="hidden")
        self._press("Bring back")
        answer = self._answer("2. ")
        self._finish("done, undone, taken back, brought back", answer, self._words(answer))

    def try_another_action(self, action: str = "open red drawer") -> None:
        """Type an action of one's own: every arm answers it."""
        self._start()
        self._open_tab("Side by side")
        box = self.page.locator(".widget-text input[list]")
        self._click(box)
        box.fill(action)
        box.press("Enter")
        self._count()
        self.page.wait_for_function(
            "text => [...document.querySelectorAll('.visdyn-answer pre')].some(one => one.textContent.includes(text))",
            arg=f"action='{action}'",
        )
        answer = self._answer("C-")
        self._finish(f"all arms on {action!r}, typed", answer, self._words(answer))

    def bring_images(self, folder: Path) -> None:
        """Bring two images that are of no kitchen: the IDM should say that it cannot know."""
        self._start()
        self._open_tab("What the IDM thinks")
        paths = [folder / "before.png", folder / "after.png"]
        for number, path in enumerate(paths):
            noise = np.random.default_rng(number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        with self.page.expect_file_chooser() as chooser:  # its input is not in the page
            self._click(self.page.get_by_role("button", name=re.compile("own image")))
        chooser.value.set_files(paths)
        self._count()
        answer = self._answer("after (yours)")
        self._finish("two images of one's own, of noise", answer, self._words(answer))

    def _answer(self, text: str) -> Locator:
        """Wait until the panel in front says a text; return what it says."""
        found = self.page.locator(".visdyn-answer:visible", has_text=text).first
        found.wait_for()
        return found

    def _words(self, answer: Locator) -> str:
        return re.sub(r"\s+", " ", answer.evaluate("""one => {
            const copy = one.cloneNode(true);
            copy.querySelectorAll('details').forEach(part => part.remove());
            copy.querySelectorAll('div, figure, b').forEach(part => part.append(' '));
            return copy.textContent; }""")).strip()  # fmt: skip

    def _finish(self, question: str, answer: Locator, said: str = "") -> None:
        seconds, hidden = time.monotonic() - self._last, {}
        for size, (width, height) in SIZES.items():
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.wait_for_timeout(700)  # pictures are decoded
            hidden[size] = answer.evaluate("""one => {
                const parts = one.matches('button') ? [one] : one.querySelectorAll('img, figcaption, summary, b');
                return [...parts].filter(part => {
                    const box = part.getBoundingClientRect();
                    return box.bottom > innerHeight || box.top < 0 || box.right > innerWidth || box.left < 0;
                }).map(part => part.alt || part.textContent.trim().slice(0, 40)); }""")  # fmt: skip
            if self.pictures is not None:
                self.page.screenshot(path=self.pictures / f"{len(self.asked) + 1}-{size}.png")
        self.asked.append(Asked(question, self._steps, seconds, said, hidden))
        print(describe(len(self.asked), self.asked[-1]), flush=True)

    def _start(self) -> None:
        self._steps = 0

    def _count(self) -> None:
        self._steps, self._last = self._steps + 1, time.monotonic()

    def _click(self, place: Locator) -> None:
        place.click()
        self._count()

    def _choose(self, place: Locator, label: str) -> None:
        place.select_option(label=label)
        self._count()

    def _press(self, name: str) -> None:
        self._click(self.page.get_by_role("button", name=name, exact=True))

    def _open_tab(self, name: str) -> None:
        self._click(self.page.locator(".lm-TabBar-tabLabel", has_text=name).first)

    def _note_address(self, address: str) -> None:
        if not address.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
            self.elsewhere.append(address)


@contextmanager
def serve(profile: str) -> Iterator[str]:
    """Serve the explorer as a user does; give its address.

    Raises:
        RuntimeError: the server did not start; its last words are in the message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="visdyn-mouse-") as folder:
        log = Path(folder) / "play.log"
        command = [
            sys.executable,
            "-m",
            "visdyn.cli",
            "play",
            "--profile",
            profile,
            "--no-browser",
            "--port",
            str(port),
        ]
        with open(log, "w") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT,
                                       env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not (found := re.search(r"http://127\.\S+token=\S+", log.read_text())):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"`visdyn play` did not start: {log.read_text()[-1000:]}")
                time.sleep(0.3)
            yield found[0]
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def browse() -> Iterator:
    """Start a Chromium without a window.

    Raises:
        playwright.sync_api.Error: there is none.
    """
    path = os.environ.get("VISDYN_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=path, args=sandbox)
        try:
            yield chromium
        finally:
            chromium.close()


def describe(number: int, one: Asked) -> str:
    """Return a question's lines."""
    lines = [f"{number}. {one.question}: {one.steps} steps, {one.seconds:.1f} s"]
    for size, hidden in one.hidden.items():
        lines.append(f"   {size} {'x'.join(map(str, SIZES[size]))}: " + ("; ".join(hidden) + " OUT OF SIGHT" if hidden
                                                                        else "all in sight"))  # fmt: skip
    return "\n".join([*lines, f"   {one.said}"] if one.said else lines)


def main(arguments: list[str] | None = None) -> int:
    """Ask everything; return 1 where an answer was out of sight or another machine was asked for something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".")
    parser.add_argument("--out", type=Path, default=Path(".visdyn/explorer/by_mouse"), help="folder of the pictures")
    parser.add_argument("--patience", type=float, default=_PATIENCE, help="seconds to wait for one answer")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with serve(options.profile) as address, browse() as chromium:
        visitor = Visitor(chromium.new_page(), options.out, options.patience)
        visitor.open(address)
        visitor.ask_everything(options.out)
    print(f"asked elsewhere: {', '.join(visitor.elsewhere) or 'nothing'}")
    return int(bool(visitor.elsewhere) or any(any(one.hidden.values()) for one in visitor.asked))


if __name__ == "__main__":
    sys.exit(main())
