"""docs/performance.md: every bar has a test that counts, every count is on the page, and a wrong one would be seen."""

from __future__ import annotations

import ast

import pytest
from performance_bars import PAGE, check_bar, read_bars

from visdyn.paths import repository_root

ROOT = repository_root()


def _counted() -> dict[str, str]:
    """Return the names that tests hand to `check_bar`, each with its file."""
    found = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "check_bar"
                and path.name != "test_performance_bars.py"
            ):
                names = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                found |= {name: f"tests/{path.name}" for name in names if isinstance(name, str)}
    return found


def test_every_bar_is_counted_by_the_test_that_its_row_names():
    bars = read_bars(PAGE.read_text(encoding="utf-8"))
    assert len(bars) > 4
    assert {name: bar.test for name, bar in bars.items()} == _counted()
    assert all(bar.now for bar in bars.values())


def test_a_count_above_its_bar_or_another_than_the_page_s_is_seen(tmp_path, monkeypatch):
    monkeypatch.delenv("VISDYN_WRITE_BARS", raising=False)
    text = PAGE.read_text(encoding="utf-8")
    row = read_bars(text)["passes of an edit"]
    check_bar(row.name, 49)
    with pytest.raises(AssertionError, match="passes of an edit: 50, at most 49"):
        check_bar(row.name, 50)
    other = tmp_path / "performance.md"
    other.write_text(text, encoding="utf-8")
    monkeypatch.setenv("VISDYN_WRITE_BARS", "1")
    check_bar(row.name, 48, other)
    monkeypatch.delenv("VISDYN_WRITE_BARS")
    assert read_bars(other.read_text(encoding="utf-8"))[row.name].now == "48"
    with pytest.raises(AssertionError, match=r"49, and performance.md says 48"):
        check_bar(row.name, 49, other)
