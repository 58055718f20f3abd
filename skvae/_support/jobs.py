"""Threads that share the chunks of rows of one call: ``n_jobs`` in scikit-learn's sense."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import joblib
from joblib.parallel import get_active_backend

from .device import thread_limit

__all__ = ["shared", "with_jobs"]

Item = TypeVar("Item")

# ``n_jobs`` of the call under way, as the user has set it: it is resolved where there is work to share.
_n_jobs: ContextVar[Any] = ContextVar("n_jobs", default=1)


def with_jobs(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method whose work may be shared by as many threads as the ``n_jobs`` of its estimator says."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **given: Any) -> Any:
        before = _n_jobs.set(getattr(self, "n_jobs", 1))  # one that is being unpickled has none yet
        try:
            return method(self, *args, **given)
        finally:
            _n_jobs.reset(before)

    return call


def shared(
    work: Callable[[Iterable[Item]], None], items: Sequence[Item], flops_per_step: float, *, in_turn: bool = False
) -> None:
    """Do some work on items, in several threads where the caller's ``n_jobs`` allows it.

    What is computed must not depend on who computes it: then results have the same bits whatever ``n_jobs`` is. So
    steps that torch shares among threads of its own, of another order of summation, are never shared here.

    Parameters
    ----------
    work : callable
        Takes its part of the items from an iterable; called once in each thread, with gradients turned on and
        one thread for torch.
    items : sequence
    flops_per_step : float
        As in `thread_limit`.
    in_turn : bool
        Whether one thread must take all items, in their order.

    Raises
    ------
    Exception
        The first one of any thread, when all have ended; what is left is not done.
    """
    with thread_limit(flops_per_step) as n_torch_threads:
        many = len(items) > 1 and n_torch_threads == 1 and not in_turn
        n_threads = min(_n_allowed(), len(items)) if many else 1
        if n_threads == 1:
            work(items)
        else:
            _in_threads(work, items, n_threads)


def _n_allowed() -> int:
    """Threads that the call under way may have: one in a worker of joblib, whose other workers have the other cores."""
    asked, (backend, _) = _n_jobs.get(), get_active_backend()
    if asked == 1 or backend.nesting_level:
        return 1
    n_jobs = joblib.effective_n_jobs(asked)
    return min(n_jobs, joblib.cpu_count()) if asked is None else n_jobs  # a context may speak of a whole cluster


def _in_threads(work: Callable[[Iterable[Item]], None], items: Sequence[Item], n_threads: int) -> None:
    left, stop = iter(items), threading.Event()

    def taken() -> Iterator[Item]:
        for item in left:
            if stop.is_set():
                return
            yield item

    def run() -> None:
        _n_jobs.set(1)
        with thread_limit(0.0):
            work(taken())

    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(copy_context().run, run) for _ in range(n_threads)]
        try:
            for future in as_completed(futures):
                future.result()
        finally:  # after an error or a Ctrl-C the others take no further item
            stop.set()
