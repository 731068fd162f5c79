"""Provenance: hashes of inputs under names that do not depend on the machine."""

from __future__ import annotations

import hashlib

from visdyn.reporting import provenance


def test_hash_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 3_000_000)
    assert provenance.sha256(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_names_are_relative_and_sorted(tmp_path):
    inside, outside = tmp_path / "profile" / "b.csv", tmp_path / "data" / "published" / "a.csv"
    for path in (inside, outside):
        path.parent.mkdir(parents=True)
        path.write_text("1")
    hashes = provenance.input_hashes([inside, outside], tmp_path / "profile")
    assert list(hashes) == ["b.csv", "data/published/a.csv"]
    assert not any(str(tmp_path) in name for name in hashes)


def test_sidecar_is_the_same_on_every_run(tmp_path):
    first = provenance.write_sidecar(tmp_path / "a.json", {"b": "1", "a": "2"}).read_bytes()
    second = provenance.write_sidecar(tmp_path / "b.json", {"a": "2", "b": "1"}).read_bytes()
    assert first == second
    assert b"commit" not in first


def test_versions_name_python_and_absent_packages(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-here"))
    versions = provenance.versions()
    assert set(versions) == {"python", "numpy", "no-such-package-here"}
    assert versions["no-such-package-here"] == "not installed"
