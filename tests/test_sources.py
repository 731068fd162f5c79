"""The profiles of the papers' scale: every value says where it comes from, and a reader who looks there finds it.

The papers' texts are not in the repository; where `VISDYN_SHARED` names no folder with them (`papers/`), what needs
them is skipped.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from visdyn.paths import repository_root

FILES = [repository_root() / "profiles" / name / "overrides.yaml" for name in ("paper", "paper_liquid")]
TEXTS = {"B": "bootstrapping-dynamics.txt", "D": "do-undo.txt"}
PAPERS = Path(os.environ.get("VISDYN_SHARED", "absent")) / "papers"
# Places on this machine and habits, which no paper has; a section's other lines are what is computed.
PLACES = ("runtime", "data", "world")
TAG = re.compile(r"\((ours|BAGEL|[BD] [^()]+)\)")
WITHOUT_A_PAGE = ("code", "v2")  # of D: the authors' scripts, and the second version
# What a section says where the value itself is a name, a list or a word of ours; by key, or by the name of an entry.
SAID = {
    "base": ["Anole-7B", "BAGEL-7B-MoT", "Liquid-8B"],
    "autoencoder": ["BAGEL-7B-MoT"],
    "generator": ["BAGEL-7B-MoT"],
    "precision": ["bfloat16"],
    "bert_score": ["BERTScore"],
    "arms": ["Ablation study"],
    "floor": ["(2)"],
    "variants": ["Do-Undo (c)"],
    "condition": ["groundtruth image"],
    "candidates": ["1, 2, 4, 8"],
    "top_p": ["top-1 sampling"],
    "temperature": ["temperature to 1"],
    "vocabulary": ["turn-on, close"],
    "test_split": ["rotate, remove-from and stack"],
    "InstructPix2Pix": ["PixInstruct"],
    "FLUX Kontext": ["Flux-Kontext"],
    "Qwen-Image": ["Qwen-Image-2509"],
    "base_think": ["Bagel-think"],
    "GPT-4o": ["GPT-4o-2024-11-20"],
    "Gemini": ["Gemini 2.5"],
    "imported": ["GoT"],
    "api_editors": ["Gemini"],
    "model": ["BLIP"],
    "models": ["spatial reasoning", "Chameleon-7B"],
    "modes": ["Greedy decoding"],
    "spatialmqa": ["SpatialMQA"],
    "embspatial": ["EmbodiedSpatial"],
    "exports": ["14 participants", "Human Evaluation"],
}


def _entries(path: Path) -> list[tuple[str, str, str, str]]:
    """Return section, key (or the name of an entry), value and comment of every line that sets something.

    A line that opens a block counts only where it has a tag, which then is that of its lines; what stands in a flow
    mapping of two or more lines counts once, with the comment behind its end.
    """
    found, section, opened, said = [], "", "", None
    for line in path.read_text().splitlines():
        code, _, comment = line.partition("#")
        if not line.startswith((" ", "#")) and ":" in line:
            section = line.partition(":")[0]
        if not code.strip():
            continue
        opened += code.strip()
        if opened.count("{") > opened.count("}"):
            continue
        key, _, value = opened.removeprefix("- ").partition(":")
        if opened.startswith("- {"):
            key = yaml.safe_load(opened)[0].get("name", "kind")
        value, opened = value.strip(), ""
        if said is not None and code.strip().startswith("- ") and not TAG.search(comment):
            continue  # an item of a list whose head has the tag
        said = comment if not value and TAG.search(comment) else None
        if value or said:
            found.append((section, key, value, comment.strip()))
    return found


ENTRIES = [(path.parent.name, *entry) for path in FILES for entry in _entries(path)]
TAGGED = [
    (f"{profile}: {section}.{key}", key, value, *tag.split(" ", 1))
    for profile, section, key, value, comment in ENTRIES
    for tag in TAG.findall(comment)[:1]
    if " " in tag and tag.split(" ", 1)[1] not in WITHOUT_A_PAGE
]


def test_every_value_says_where_it_comes_from():
    bare = [entry for entry in ENTRIES if entry[1] not in (*PLACES, "parent") and not TAG.search(entry[4])]
    assert bare == []
    assert len(TAGGED) > 40


def _sections(text: str, paper: str) -> dict[str, str]:
    """Return the papers' sections by number or letter; B's have marks before them, D's stand alone on a line."""
    head = (
        r"^#+ \**([A-Z]|\d)((?:\.\d)*) "
        if paper == "B"
        else r"^(?:Appendix )?([A-D]|[1-5])((?:\.\d)?) (?=[A-Z][\w -]+$)"
    )
    heads = list(re.finditer(head, text, re.MULTILINE))
    names = [match[1] + match[2] for match in heads]
    ends = [match.start() for match in heads[1:]] + [len(text)]
    parts = {name: text[match.start() : end] for name, match, end in zip(names, heads, ends, strict=True)}
    # A section has its subsections.
    return {
        name: "".join(part for other, part in parts.items() if f"{other}.".startswith(f"{name}.")) for name in parts
    }


def _part(text: str, paper: str, place: str) -> str:
    """Return the section, or what stands around a table, figure or equation; empty where there is none."""
    kind, _, number = place.rpartition(" ")
    if kind in ("", "app."):
        return _sections(text, paper).get(number, "")
    if kind == "Eq.":
        return next(iter(re.findall(rf"\$\$.*\({number}\)\$\$|\$\$.*\\quad \({number}\)\$\$", text)), "")
    word = {"Tab.": "Table", "Fig.": "Figure"}[kind]
    found = re.search(rf"^{word} {number}:", text, re.MULTILINE)
    return text[max(0, found.start() - 2500) : found.end() + 2500] if found else ""


def _spellings(value: str) -> list[str]:
    """Return how a paper may write a number: 10000 as 10K, 10,000; .0002 as 2e-4."""
    number = float(value)
    mantissa, _, exponent = f"{number:e}".partition("e")
    shown = [f"{number:g}", f"{number:,.0f}", value, f"{float(mantissa):g}e{int(exponent)}"]
    return shown + ([f"{number / 1000:g}K"] if number >= 1000 else [])


@pytest.fixture(scope="module", params=TEXTS)
def paper(request):
    path = PAPERS / TEXTS[request.param]
    if not path.is_file():
        pytest.skip(f"no text of the paper at {path}; VISDYN_SHARED names the folder that has papers/")
    return request.param, path.read_text()


def test_a_reader_finds_each_value_where_its_tag_says(paper):
    name, text = paper
    missed = []
    for where, key, value, source, place in TAGGED:
        if source != name:
            continue
        part = _part(text, name, place)
        plain = re.fullmatch(r"[\d.]+", value) and key not in SAID
        wanted = [rf"(?<![\d.]){re.escape(one)}(?!\.?\d)" for one in _spellings(value)] if plain else []
        wanted += [re.escape(one) for one in SAID.get(key, [])]
        if not any(re.search(one, part) for one in wanted):
            missed.append(f"{where} = {value!r}: ({source} {place}) has {'no such section' if not part else 'it not'}")
    assert missed == []


def test_the_check_sees_a_wrong_section_and_a_wrong_value(paper):
    name, text = paper
    right, wrong = {"B": ("H.1", "A"), "D": ("app. A", "3.3")}[name]
    number = {"B": "500", "D": "14000"}[name]
    assert any(one in _part(text, name, right) for one in _spellings(number))
    assert not any(one in _part(text, name, wrong) for one in _spellings(number))
    assert "777" not in _part(text, name, right)
