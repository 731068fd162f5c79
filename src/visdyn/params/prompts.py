"""The section `prompts` of params.yaml: in which words a model is asked that brings none of its own.

The papers print no prompt of a model. A model that was trained here keeps the words that it was trained with
(`dynamics.json` in its folder), whatever stands in this section.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from visdyn.params.reading import Name

EDIT = "Editing the given image according to the following prompt: {action}"


@dataclass(frozen=True)
class DynamicsPrompts:
    """Of a token model: what is said before an action's image, and what is asked about two images.

    Raises:
        ValueError: the first has no place for the action.
    """

    fdm: Name = EDIT  # {action} is replaced
    idm: Name = "Infer the action between the two consecutive images."

    def __post_init__(self) -> None:
        _check_place("fdm", self.fdm)


@dataclass(frozen=True)
class UnderstandingPrompts:
    """Of a model that writes text only.

    Raises:
        ValueError: a text about an action has no place for it.
    """

    fdm: Name = EDIT  # {action} is replaced
    idm: Name = "Infer the action that leads from the first image to the second. Answer with one short instruction."
    yes_no: Name = "Is the second image the result of this action on the first image: {action}? Answer Yes or No."

    def __post_init__(self) -> None:
        _check_place("fdm", self.fdm)
        _check_place("yes_no", self.yes_no)


@dataclass(frozen=True)
class Prompts:
    """Of each family."""

    chameleon: DynamicsPrompts = field(default_factory=DynamicsPrompts)  # Chameleon, Anole, and what is built on them
    liquid: DynamicsPrompts = field(default_factory=DynamicsPrompts)
    understanding: UnderstandingPrompts = field(default_factory=UnderstandingPrompts)


def _check_place(name: str, text: str) -> None:
    try:
        written = text.format(action="\0")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{name} must be a text with {{action}} in it and no other braces, not {text!r}") from error
    if "\0" not in written:
        raise ValueError(f"{name} must say where the action stands, by {{action}}, not {text!r}")


SENTENCES = Prompts()  # without a params.yaml, as in a notebook of one's own
