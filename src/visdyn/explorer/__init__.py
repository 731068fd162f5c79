"""The explorer: what models make of single items, by mouse in JupyterLab and in the browser (`visdyn play`).

`open_profile` opens a profile's models and test items, `explore` shows them. What is asked is in `asks.py`, which items
in `browse.py`, the same as code in `snippets.py`; `panels.py` has the widgets and knows nothing else. No stage imports
this package.
"""

from __future__ import annotations

from importlib import import_module

_LAZY = {"open_profile": "visdyn.explorer.opened", "explore": "visdyn.explorer.panels"}
__all__ = list(_LAZY)


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'visdyn.explorer' has no attribute {name!r}; it offers {', '.join(_LAZY)}")
    return getattr(import_module(_LAZY[name]), name)
