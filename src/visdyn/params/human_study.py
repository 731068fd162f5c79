"""The section `human_study` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from visdyn.params.reading import Name, Several


@dataclass(frozen=True)
class HumanStudy:
    """Exported answers of annotators (Bootstrapping, Table 5; Do-Undo, Table 7)."""

    exports: Several[Name]  # CSVs of `visdyn study serve --export`
    reference: Name  # the system that others are tested against
