"""The explorer's widgets (ipywidgets): one page, shown in JupyterLab and by `visdyn play` alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import ipywidgets as widgets
from IPython.display import HTML, display
from transformers.utils.logging import disable_progress_bar

from visdyn.explorer import asks, browse, drawing, snippets
from visdyn.explorer.opened import EDITOR, OWN, TOKENS, Opened, open_profile, own_item
from visdyn.images import decode
from visdyn.paths import write_atomically
from visdyn.trajectory import Trajectory

_A_PAGE = 10  # items
_THUMBNAIL, _HELD, _CANDIDATE, _MAPPED = 58, 112, 92, 200  # CSS pixels of a picture's side
_MOST_CANDIDATES = 16
_ROW = widgets.Layout(flex_flow="row wrap", align_items="center")
# Items stand beside what is asked of one of them, so that a question and its answer are in sight together, on a
# laptop's 1366 x 768 too; where there is less room (JupyterLab with its sidebar) the answer comes below the items.
_ITEMS_WIDTH = 456
_ITEMS_HEIGHT = "max(480px, calc(100vh - 96px))"  # of the window, less what stands above
_ITEMS = widgets.Layout(flex=f"0 0 {_ITEMS_WIDTH}px", max_height=_ITEMS_HEIGHT, overflow="hidden auto")
_ASKED = widgets.Layout(flex=f"1 1 {_ITEMS_WIDTH}px", min_width="0")


def explore(profile: str = ".", chain: int | None = None, models: Mapping[str, str] | None = None) -> Page:
    """Open a profile (`opened.open_profile` says how) and return the page, which a notebook shows as a cell's value."""
    # A bar for each model that is loaded would stand above the page for good.
    disable_progress_bar()
    return Page(open_profile(profile, chain, models))


class Page:
    """Everything: the item browser, the item in hand, and the panels that ask models about it.

    Attributes:
        opened: the profile.
        item: in hand.
        widget: to display.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened, self.item = opened, opened.items[0]
        self.status = widgets.HTML()
        self.shown = widgets.HTML()
        self.action = widgets.Combobox(
            options=tuple(opened.actions), ensure_option=False, continuous_update=False, description="action",
            placeholder="choose or type", layout=widgets.Layout(width="420px"),
        )  # fmt: skip
        self.seed = widgets.BoundedIntText(value=0, min=0, max=9999, description="seed", layout=_width(160))
        self.upload = widgets.FileUpload(accept="image/*", multiple=True, description="own image (2: before, after)",
                                         layout=_width(260))  # fmt: skip
        self.browser = Browser(self)
        self.panels = [Arms(self), Candidates(self), Maps(self), Beliefs(self), Walks(self)]
        self.tabs = widgets.Tab([panel.widget for panel in self.panels], titles=[panel.title for panel in self.panels])
        self.action.observe(lambda _: self.refresh(), "value")
        self.seed.observe(lambda _: self.refresh(), "value")
        self.upload.observe(self.guarded(lambda _: self._take_upload()), "value")
        self.tabs.observe(lambda _: self.refresh(), "selected_index")
        name = f"profile {opened.stage.profile}, chain {opened.chain}, {len(opened.items)} test items"
        head = drawing.heading("visdyn explorer", name) + (drawing.sentence(opened.note, True) if opened.note else "")
        asked = widgets.VBox([self.action, self.seed, self.upload, self.status], layout=widgets.Layout(min_width="0"))
        self.widget = widgets.VBox([
            widgets.HTML(head),
            widgets.HBox([
                widgets.VBox([self.browser.widget], layout=_ITEMS),
                widgets.VBox([widgets.HBox([self.shown, asked], layout=_ROW), self.tabs], layout=_ASKED),
            ], layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start")),
        ])  # fmt: skip
        self.browser.find()
        self.take(self.item)

    def _ipython_display_(self) -> None:
        display(self.widget)

    def snapshot(self) -> HTML:
        """Return what is shown now of the item in hand, as an output that stays when the notebook is saved."""
        return HTML(self.shown.value + self.panels[self.tabs.selected_index or 0].answer.value)

    def take(self, item: Trajectory) -> None:
        """Take an item in hand; small models are asked about it at once."""
        self.item = item
        pictures = [drawing.figure(item.source, "before", f"{item.subset}/{item.id}", side=_HELD)]
        if item.target is not None:
            truth = ("after (true)", item.action) if item.subset != OWN else ("after (yours)", "")
            pictures.append(drawing.figure(item.target, *truth, side=_HELD))
        self.shown.value = drawing.row(pictures)
        for panel in self.panels:
            panel.clear()
        if self.action.value == item.action:
            self.refresh()
        else:
            self.action.value = item.action  # asks too

    def refresh(self) -> None:
        """Ask the panel in front again, where the models are small; large ones wait for its button."""
        if self.opened.is_small:
            self.panels[self.tabs.selected_index or 0].run()

    def guarded(self, ask: Callable) -> Callable:
        """Say in the status line that something runs, and in one sentence what went wrong."""

        @wraps(ask)
        def run(*arguments):
            self.status.value = drawing.sentence("asking the models ...")
            try:
                answer = ask(*arguments)
            except (ValueError, KeyError, OSError, RuntimeError) as error:
                self.status.value = drawing.sentence(str(error).strip("'\""), warning=True)
                return None
            self.status.value = ""
            return answer

        return run

    def _take_upload(self) -> None:
        """Keep uploaded images in the profile's scratch, so that code can name them, and take them in hand."""
        files = list(self.upload.value)
        if not files:
            return
        paths = []
        for file in files[:2]:
            content = bytes(file.content)
            decode(content, file.name)  # refuses what is no image
            path = self.opened.stage.root / ".visdyn/explorer" / f"own-{hashlib.sha256(content).hexdigest()[:12]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            paths.append(path)
        self.take(own_item(paths[0], self.action.value or self.item.action, paths[1] if len(paths) > 1 else None))


class Browser:
    """Thumbnails of items by subset, verb, score; worst, best, most disagreeing."""

    def __init__(self, page: Page) -> None:
        self.page, opened = page, page.opened
        subsets = list(dict.fromkeys(item.subset for item in opened.items))
        measured = [name for name in opened.arms if name in set(opened.scores["system"])]
        metrics = list(dict.fromkeys(opened.scores["metric"]))
        self.subset = _make_list([("all subsets", ""), *((name, name) for name in subsets)])
        self.verb = _make_list([("all verbs", ""), *((verb, verb) for verb in browse.verbs(opened))])
        self.system = _make_list([(opened.arms[name].label, name) for name in measured] or [("–", "")])
        if "synthetic_weighted" in measured:
            self.system.value = "synthetic_weighted"
        self.metric = _make_list(metrics or ["score"])
        self.metric.value = "score" if "score" in metrics else self.metric.options[0]
        self.order = _make_list([(label, name) for name, label in browse.ORDERS.items()])
        self.low = widgets.Text(placeholder="from", continuous_update=False, layout=_width(66))
        self.high = widgets.Text(placeholder="to", continuous_update=False, layout=_width(66))
        self.start = 0
        back, on = widgets.Button(description="‹ earlier", layout=_width(66)), widgets.Button(
            description="later ›", layout=_width(66))  # fmt: skip
        back.on_click(lambda _: self.turn(-_A_PAGE))
        on.on_click(lambda _: self.turn(_A_PAGE))
        self.count, self.cells = widgets.HTML(), widgets.HBox(layout=widgets.Layout(flex_flow="row wrap"))
        chosen = [self.subset, self.verb, self.system, self.metric, self.order, self.low, self.high]
        for one in chosen:
            one.observe(page.guarded(lambda _: self.find()), "value")
        self.widget = widgets.VBox([
            widgets.HBox(chosen, layout=_ROW), widgets.HBox([back, on, self.count], layout=_ROW), self.cells,
        ], layout=widgets.Layout(flex="0 0 auto"))  # fmt: skip

    def turn(self, by: int) -> None:
        """Show the page before or after."""
        if 0 <= self.start + by < len(self.found):
            self.start += by
            self.show()

    def find(self) -> None:
        """Find what the controls ask for, and show the first page of it."""
        low, high = (float(one.value) if one.value.strip() else None for one in (self.low, self.high))
        self.found = browse.find_items(self.page.opened, browse.Filter(
            self.subset.value, self.verb.value, self.system.value, self.metric.value or "score", low, high,
            self.order.value))  # fmt: skip
        self.start = 0
        self.show()

    def show(self) -> None:
        """Show a page of thumbnails; each has a button that takes its item in hand."""
        opened, rows = self.page.opened, self.found.iloc[self.start : self.start + _A_PAGE]
        items = [opened.item(one.subset, one.id) for one in rows.itertuples()]
        system = self.system.value
        made = asks.images_of(opened, system, items) if system else {}
        order = f": before, true, {opened.arms[system].label}" if made else ": before, true"
        self.count.value = drawing.sentence(f"{len(self.found)} items; shown {self.start + 1 if len(rows) else 0} to "
                                            f"{self.start + len(rows)}{order}")  # fmt: skip
        cells = []
        for one, item in zip(rows.itertuples(), items, strict=True):
            said = f"score {one.score:.2f}" if one.score == one.score else ""
            if self.order.value == "disagreeing":
                said = f"differ by {one.spread:.2f}"
            pictures = [drawing.thumbnail(item.source, "before", _THUMBNAIL)]
            if item.target is not None:
                pictures.append(drawing.thumbnail(item.target, "true", _THUMBNAIL))
            if (item.subset, item.id) in made:
                label = opened.arms[system].label
                pictures.append(drawing.thumbnail(made[item.subset, item.id], label, _THUMBNAIL))
            button = widgets.Button(description=f"{item.action}", tooltip=f"{item.subset}/{item.id}",
                                    layout=widgets.Layout(width=f"{3 * _THUMBNAIL + 12}px", height="26px"))  # fmt: skip
            button.on_click(lambda _, item=item: self.page.take(item))
            name = drawing.sentence(f"{item.subset}/{item.id} {said}")
            cells.append(widgets.VBox([widgets.HTML(drawing.row(pictures) + name), button]))
        self.cells.children = cells


class Panel:
    """One tab: controls, a button, and what models say."""

    title = ""

    def __init__(self, page: Page, *controls: widgets.Widget) -> None:
        self.page, self.answer = page, widgets.HTML()
        self.answer.add_class("visdyn-answer")
        self.button = widgets.Button(description="Ask", button_style="primary", layout=_width(80))
        self.button.on_click(lambda _: self.run())
        for control in controls:
            control.observe(lambda _: page.refresh(), "value")
        self.widget = widgets.VBox([widgets.HBox([*controls, self.button], layout=_ROW), self.answer])

    def run(self) -> None:
        """Ask, and show the answer or what went wrong."""
        self.answer.value = self.page.guarded(self.ask)() or ""  # what was said before is no answer to this

    def ask(self) -> str:
        """Return the answer as HTML."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget what was said of another item."""
        self.answer.value = ""

    @property
    def action(self) -> str:
        """The action asked for.

        Raises:
            ValueError: there is none.
        """
        words = self.page.action.value.strip()
        if not words:
            raise ValueError("choose an action, or type one")
        return words

    def arm_choice(self, *kinds: str, preferred: str = "synthetic_weighted", description: str = "") -> widgets.Dropdown:
        """Make a list of arms."""
        arms = [arm for arm in self.page.opened.arms.values() if arm.kind in kinds]
        chosen = preferred if preferred in {arm.name for arm in arms} else (arms[0].name if arms else None)
        options = [(arm.label, arm.name) for arm in arms]
        return widgets.Dropdown(options=options, value=chosen, description=description, layout=_width(260))


class Arms(Panel):
    """One image of each arm, from one seed."""

    title = "Side by side"

    def __init__(self, page: Page) -> None:
        arms = list(page.opened.arms.values())
        usual = [
            name for name in ("zero_shot", "supervised", "synthetic_weighted", "doundo_c") if name in page.opened.arms
        ]
        self.names = widgets.SelectMultiple(options=[(arm.label, arm.name) for arm in arms], rows=min(len(arms), 4),
                                            value=usual or [arms[0].name], description="arms")  # fmt: skip
        super().__init__(page, self.names)

    def ask(self) -> str:
        page, action, seed = self.page, self.action, self.page.seed.value
        drawn = asks.draw_arms(page.opened, self.names.value, page.item, action, seed)
        pictures = []
        truth = asks.true_image(page.opened, page.item, action)
        if truth is not None:
            pictures.append(drawing.figure(truth, f"true: {action}"))
        for name, one in drawn.items():
            said = "no true image known" if one.judgement is None else (
                f"judge {one.judgement.score:.1f}{', nearest is the true state' if one.judgement.success else ''}"
                f"{', a copy of the source' if one.judgement.copied else ''}")  # fmt: skip
            pictures.append(drawing.figure(one.image, page.opened.arms[name].label, said))
        text = snippets.code_of_arms(page.opened, self.names.value, page.item, action, seed)
        return drawing.row(pictures) + drawing.code(text)


class Candidates(Panel):
    """K candidates, in the order of one of three opinions."""

    title = "Best of K"

    def __init__(self, page: Page) -> None:
        self.page = page
        self.name = self.arm_choice(TOKENS, preferred="supervised", description="arm")
        self.k = widgets.BoundedIntText(value=8, min=1, max=_MOST_CANDIDATES, description="K", layout=_width(140))
        self.sort = widgets.ToggleButtons(options=[(label, name) for name, label in asks.SORTS.items()],
                                          style={"button_width": "110px"})  # fmt: skip
        super().__init__(page, self.name, self.k, self.sort)

    def ask(self) -> str:
        page, action, seed = self.page, self.action, self.page.seed.value
        asked = page.opened, self.name.value, page.item, action, self.k.value, seed
        ranked = asks.draw_candidates(*asked, sort=self.sort.value)
        return drawing.candidates(ranked, self.sort.value, _CANDIDATE) + drawing.code(
            snippets.code_of_candidates(*asked)
        )


class Maps(Panel):
    """A number of each image token, laid over the image."""

    title = "Token maps"

    def __init__(self, page: Page) -> None:
        self.page = page
        self.kind = widgets.Dropdown(options=[(label, name) for name, label in asks.MAPS.items()], value=asks.WEIGHT,
                                     layout=_width(240))  # fmt: skip
        self.over = widgets.Dropdown(options=["true image", "sample"], layout=_width(120))
        self.name = self.arm_choice(TOKENS, description="arm")
        self.other = self.arm_choice(TOKENS, preferred="supervised", description="minus")
        self.opacity = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, description="opacity", layout=_width(280)
        )
        super().__init__(page, self.kind, self.over, self.name, self.other)
        self.opacity.observe(lambda _: self.draw(), "value")
        self.widget.children = (*self.widget.children[:1], self.opacity, *self.widget.children[1:])
        self.tokens, self.image, self.text = None, None, ""

    def ask(self) -> str:
        page, action = self.page, self.action
        image = asks.true_image(page.opened, page.item, action)
        if self.over.value == "sample" or image is None:
            drawn = asks.draw_arms(page.opened, [self.name.value], page.item, action, page.seed.value)
            image = drawn[self.name.value].image
        floor = page.opened.stage.settings.fdm.floor if self.kind.value == asks.WEIGHT else 0.0
        asked = self.kind.value, self.name.value, page.item, action
        self.tokens = asks.map_tokens(page.opened, *asked, image, self.other.value, floor)
        model = asks.token_model(page.opened, self.name.value).model
        self.image = model.square(image)  # what the tokens lie on
        self.before = model.square(page.item.source)
        known = image is page.item.target
        self.text = snippets.code_of_map(page.opened, *asked, self.other.value, floor) if known else ""
        return self._lay_over()

    def draw(self) -> None:
        """Lay the last map over its image again, at another opacity."""
        if self.tokens is not None:
            self.answer.value = self._lay_over()

    def clear(self) -> None:
        super().clear()
        self.tokens = None

    def _lay_over(self) -> str:
        painted = drawing.paint(self.tokens)
        pictures = [
            drawing.figure(self.before, "before", side=_MAPPED),
            drawing.figure(self.image, "after", side=_MAPPED, overlay=painted, opacity=self.opacity.value),
            drawing.figure(self.image, "after, without the map", side=_MAPPED),
        ]
        return drawing.row(pictures) + drawing.legend(self.tokens) + (drawing.code(self.text) if self.text else "")


class Beliefs(Panel):
    """What the IDM thinks happened, how sure it is, and whether it can know."""

    title = "What the IDM thinks"

    def __init__(self, page: Page) -> None:
        self.page = page
        arms = [(arm.label, arm.name) for arm in page.opened.arms.values()]
        self.after = widgets.Dropdown(options=[("the true image", ""), *arms], description="of", layout=_width(300))
        super().__init__(page, self.after)

    def ask(self) -> str:
        page, item = self.page, self.page.item
        if self.after.value or item.target is None:
            name = self.after.value or next(iter(page.opened.arms))
            image = asks.draw_arms(page.opened, [name], item, self.action, page.seed.value)[name].image
            label = page.opened.arms[name].label
        else:
            image, label = item.target, "after (true)" if item.subset != OWN else "after (yours)"
        belief = asks.ask_inverse(page.opened, item, image)
        sure = "" if belief.probability != belief.probability else f", with a probability of {belief.probability:.0%}"
        said = drawing.sentence(f"It says: {belief.predicted or '(nothing)'}{sure}.")
        said += "".join(drawing.sentence(text, warning=True) for text in belief.warnings)
        lines = []
        for one in belief.ranking.head(8).itertuples():
            known = one.probability == one.probability
            text = f"{one.probability:.1%}, " if known else ""
            value = one.probability if known else one.log_likelihood
            lines.append((one.action, value, f"{text}{one.log_likelihood:.2f} nats a token", one.action == item.action))
        bars = drawing.bars(lines, 0.0 if belief.listed == belief.listed else None)
        pictures = [drawing.figure(item.source, "before"), drawing.figure(image, label)]
        text = snippets.code_of_belief(page.opened, item) if image is item.target else ""
        words = f'<div style="flex:1 1 440px">{said}{bars}</div>'
        return drawing.row([*pictures, words]) + (drawing.code(text) if text else "")


class Walks(Panel):
    """Actions one after the other, undone by a model, taken back by hand."""

    title = "Do and undo"

    def __init__(self, page: Page) -> None:
        self.page = page
        self.name = self.arm_choice(TOKENS, EDITOR, preferred="synthetic_weighted", description="arm")
        super().__init__(page)
        named = {"do": "Do the action", "undo": "Undo by model", "back": "Take back", "again": "Bring back"}
        buttons = []
        for name, label in named.items():
            button = widgets.Button(description=label, layout=_width(138))
            button.on_click(lambda _, name=name: self.step(name))
            buttons.append(button)
        self.widget.children = (widgets.HBox([self.name, *buttons], layout=_ROW), self.answer)
        self.walk = None

    def step(self, what: str) -> None:
        """Do, undo, take back or bring back one step, and show the strip."""
        walk = self.walk or self._start()
        steps = {"do": lambda: walk.do(self.action, self.name.value), "undo": lambda: walk.undo(self.name.value),
                 "back": walk.back, "again": walk.again}  # fmt: skip
        self.page.guarded(steps[what])()
        said = self.page.status.value
        self.run()
        self.page.status.value = said

    def ask(self) -> str:
        walk = self.walk or self._start()
        pictures = [drawing.figure(walk.source, "start")]
        for place, (action, name, image) in enumerate(walk.steps, 1):
            pictures.append(drawing.figure(image, f"{place}. {action}", self.page.opened.arms[name].label))
        text = snippets.code_of_walk(walk, self.page.item)
        return drawing.row(pictures) + drawing.code(text)

    def clear(self) -> None:
        super().clear()
        self.walk = None

    def _start(self) -> asks.Walk:
        page = self.page
        self.walk = asks.Walk(page.opened, page.item.source, page.opened.seed_of("images", page.seed.value))
        return self.walk


def _width(pixels: int) -> widgets.Layout:
    return widgets.Layout(width=f"{pixels}px")


def _make_list(options: Sequence) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, layout=_width(142))
