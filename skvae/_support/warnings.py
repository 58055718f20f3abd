"""Warnings that point at the user's line, however deep in the package they come from."""

import os
import sys
import warnings
from pathlib import Path
from types import FrameType

import sklearn
import torch

__all__ = ["warn"]

# Whose code a user did not write: ours, and what calls us or stands between two of our frames.
_FOLDERS = tuple(
    f"{folder}{os.sep}"
    for folder in (Path(__file__).parents[1], Path(sklearn.__file__).parent, Path(torch.__file__).parent)
)
_MODULES = {"concurrent", "contextlib", "copy", "joblib", "pickle", "skops", "threading"}


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that belongs neither to this package nor to scikit-learn or torch.

    Parameters
    ----------
    message : str or Warning
    category : type, default=UserWarning
        Not used where ``message`` is a warning itself.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_foreign(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_foreign(frame: FrameType) -> bool:
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in _MODULES or frame.f_code.co_filename.startswith(_FOLDERS)
