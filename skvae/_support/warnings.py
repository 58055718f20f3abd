"""Warnings that point at the user's line, however deep in the package they come from, and what messages quote."""

import os
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

import sklearn
import torch

__all__ = ["cut", "warn"]

# Characters of a text that a message quotes.
_SHOWN = 40

# Whose code a user did not write: ours, and what calls us or stands between two of our frames. Folders are spelt as the
# import spelt them, because frames are; a name alone would take a user's "skvae/train.py" for ours.
_FOLDERS = tuple(
    os.path.join(folder, "")
    for folder in (
        os.path.dirname(os.path.dirname(__file__)),
        os.path.dirname(sklearn.__file__),
        os.path.dirname(torch.__file__),
    )
)
_MODULES = {"concurrent", "contextlib", "copy", "joblib", "multiprocessing", "pickle", "skops", "threading"}


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that belongs neither to this package nor to scikit-learn or torch.

    Where there is none, as in a thread that runs a method of ours and nothing else, at the line that called this.

    Parameters
    ----------
    message : str or Warning
    category : type, default=UserWarning
        Not used where ``message`` is a warning itself.
    """
    places = enumerate(_frames(sys._getframe()), start=1)
    level = next((level for level, frame in places if not _is_foreign(frame)), 2)
    warnings.warn(message, category, stacklevel=level)


def cut(text: str) -> str:
    """At most forty characters of a text."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_foreign(frame: FrameType) -> bool:
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in _MODULES or frame.f_code.co_filename.startswith(_FOLDERS)
