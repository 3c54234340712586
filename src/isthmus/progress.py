"""Bars that show how far something is: on a terminal or in a notebook."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # in notebooks without ipywidgets the bar is made of letters
    from tqdm.auto import tqdm


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})


def watched() -> bool:
    """Whether somebody can see a bar: on a terminal or in a notebook."""
    return sys.stderr.isatty() or in_notebook()


def progress_bar(shown: bool | None, items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A tqdm. shown: None is yes in a notebook, where a cell that says nothing seems to hang, and no elsewhere."""
    return tqdm(items, disable=not (in_notebook() if shown is None else shown), **options)
