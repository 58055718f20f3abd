"""Ctrl-C: how far one reaches, and blocks that it may not cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["postponed"]


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
