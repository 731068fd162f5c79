"""The table of guards (`make guards`) names words that stand once in the sources, and tests that there are."""

from __future__ import annotations

import re

import mutate_guards
import pytest
from mutate_guards import FAMILIES, GUARDS, ROOT, Guard, GuardError, break_source


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.family}, {guard.name}")
def test_a_guard_stands_once_in_its_file_and_its_test_exists(guard):
    source = (ROOT / "src/visdyn" / guard.file).read_text()
    broken = break_source(guard, source)
    assert broken != source
    compile(broken, guard.file, "exec")
    file, _, name = guard.test.partition("::")
    assert re.search(rf"^def {name}\(" if name else "^def test_", (ROOT / "tests" / file).read_text(), re.MULTILINE)


def test_every_family_has_guards_and_none_stands_twice():
    assert {guard.family for guard in GUARDS} == set(FAMILIES)
    assert len({(guard.file, guard.old, guard.new) for guard in GUARDS}) == len(GUARDS)
    assert len({(guard.family, guard.name) for guard in GUARDS}) == len(GUARDS)


def test_words_that_moved_or_stand_twice_are_an_error():
    guard = Guard("readers", "x", "a.py", "if bad:", "if False:", "test_a.py")
    assert break_source(guard, "if bad:\n    stop()") == "if False:\n    stop()"
    for source in ("", "if bad: 1\nif bad: 2"):
        with pytest.raises(GuardError, match="times, not once"):
            break_source(guard, source)


def test_a_guard_that_no_test_sees_is_the_exit_status(monkeypatch, capsys):
    unseen = Guard("readers", "nothing", "images.py", "MAX_PROFILE = 8 * 2**20", "MAX_PROFILE = 8 * 2**21", "test_a.py")
    gone = Guard("readers", "gone", "images.py", "no such words", "", "test_a.py")
    monkeypatch.setattr(mutate_guards, "GUARDS", (unseen, gone))
    monkeypatch.setattr(mutate_guards, "load_libraries", lambda: None)
    monkeypatch.setattr(mutate_guards, "run_tests", lambda *_, **__: "passed")
    assert mutate_guards.main([]) == 1
    said = capsys.readouterr().out
    assert "NOT CAUGHT readers: nothing" in said
    assert "2 guards switched off, 0 seen" in said
    monkeypatch.setattr(mutate_guards, "GUARDS", (unseen,))
    for told, status in (("failed", 0), ("hung", 1), ("pytest ended with 4", 1)):
        monkeypatch.setattr(mutate_guards, "run_tests", lambda *_, told=told, **__: told)
        assert mutate_guards.main(["--trust"]) == status


def test_a_test_that_fails_with_the_guard_on_has_not_seen_it_off(monkeypatch, capsys):
    guard = Guard("readers", "x", "images.py", "MAX_PROFILE = 8", "MAX_PROFILE = 9", "test_a.py")
    monkeypatch.setattr(mutate_guards, "GUARDS", (guard,))
    monkeypatch.setattr(mutate_guards, "load_libraries", lambda: None)
    monkeypatch.setattr(mutate_guards, "run_tests", lambda *_, **__: "failed")
    assert mutate_guards.main([]) == 1
    assert "NOT CAUGHT readers: x (test_a.py: on the sources as they are: failed)" in capsys.readouterr().out
    assert mutate_guards.main(["--trust"]) == 0


def test_a_run_that_was_ended_goes_on_with_what_it_kept(monkeypatch, tmp_path, capsys):
    guards = tuple(Guard("readers", name, "images.py", "x", name, "test_a.py") for name in ("one", "two"))
    tried, ends = [], iter(["failed", KeyboardInterrupt, "failed", "failed", "failed"])

    def try_guard(guard, *_):
        tried.append(guard.name)
        if (told := next(ends)) is KeyboardInterrupt:
            raise told
        return told

    monkeypatch.setattr(mutate_guards, "GUARDS", guards)
    monkeypatch.setattr(mutate_guards, "load_libraries", lambda: None)
    monkeypatch.setattr(mutate_guards, "run_tests", lambda *_, **__: "passed")
    monkeypatch.setattr(mutate_guards, "try_guard", try_guard)
    monkeypatch.setattr(mutate_guards, "find_commit", lambda: "abc")
    arguments = ["--keep", str(tmp_path / "kept.tsv")]
    with pytest.raises(KeyboardInterrupt):
        mutate_guards.main(arguments)
    assert mutate_guards.main(arguments) == 0
    assert tried == ["one", "two", "two"]
    assert "2 guards switched off, 2 seen" in capsys.readouterr().out
    monkeypatch.setattr(mutate_guards, "find_commit", lambda: "abc+")  # other sources: nothing is believed
    assert mutate_guards.main(arguments) == 0
    assert tried == ["one", "two", "two", "one", "two"]
