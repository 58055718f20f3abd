"""Ctrl-C: how far one reaches, and blocks that it may not cut in two."""

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

__all__ = ["ends_one_fit", "postponed"]

# A second Ctrl-C so soon after the first means more than the fit that it hits.
_TWICE_SECONDS = 2.0


class _Latest:
    """When a Ctrl-C has ended a fit and no more."""

    seconds = -math.inf


def ends_one_fit() -> bool:
    """Whether the Ctrl-C that has just come ends the fit that it hit, and no more.

    The second one within two seconds ends more, whichever fits the two hit, and so does one inside a search: a fold
    whose training was cut must not compete with others. Clones and workers say nothing of the search that they belong
    to, but the functions under way do: one of them is of a module "model_selection", as scikit-learn and libraries that
    resemble it call it.
    """
    now, before = monotonic(), _Latest.seconds
    if now - before < _TWICE_SECONDS or _inside_search():
        return False
    _Latest.seconds = now
    return True


def _inside_search() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if "model_selection" in frame.f_globals.get("__name__", "").split("."):
            return True
    return False


@contextmanager
def postponed() -> Iterator[None]:
    """Let a Ctrl-C that comes inside the block take effect at its end.

    Only the main thread gets one; where the caller ignores it, or leaves it to the operating system, nothing changes.
    """
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if on_main else None
    if not callable(before):
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *given: came.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[0])
