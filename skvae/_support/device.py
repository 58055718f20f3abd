"""Where and under what the work runs: device, threads, seeds, torch's settings.

Nothing else in the package may ask for CUDA, seed a generator, or set what holds for the whole process.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = [
    "MATMUL_PRECISIONS",
    "cuda_graph",
    "make_generator",
    "make_random_state",
    "matmul_precision",
    "resolve_device",
    "seed_from",
    "some_rows",
    "standard_noise",
    "thread_limit",
    "torch_defaults",
]

MATMUL_PRECISIONS = frozenset({"highest", "high", "medium"})
_RUNS_BEFORE_RECORDING = 3
# Below it one thread: the barriers of a second one cost more than a small step takes. On an idle
# machine two pay from a quarter of it on (benchmarks/results/threads.json); beside other work it is not measured.
_FLOPS_PER_STEP_FOR_THREADS = 5e8


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn the ``device`` parameter into a device that exists here.

    Parameters
    ----------
    device : str or torch.device
        "auto" picks CUDA if there is a usable one and the CPU otherwise.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If the name is unknown or the device is not there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The 'device' parameter must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'. Got {device!r} instead."
        ) from error
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(resolved.type, 0)
    if (resolved.index or 0) >= present:
        raise ValueError(
            f"The device {str(device)!r} is not available here: found {present} device(s) of type {resolved.type!r}. "
            "Use device='auto' or device='cpu'."
        )
    return resolved


def cuda_graph(device: torch.device, run: Callable[[], None]) -> Callable[[], None]:
    """Record what ``run`` launches on a CUDA device, and return what launches it again.

    References
    ----------
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs : the runs on another stream before the recording.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_RUNS_BEFORE_RECORDING):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay


def make_random_state(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """Turn the ``random_state`` parameter into a generator; None takes fresh entropy, not NumPy's global state."""
    if random_state is None:
        return np.random.RandomState(np.random.MT19937())
    try:
        return check_random_state(random_state)
    except ValueError:
        raise ValueError(
            "The 'random_state' parameter must be an int in the range [0, 4294967295], an instance of "
            f"'numpy.random.RandomState' or None. Got {random_state!r} instead."
        ) from None


def seed_from(random_state: np.random.RandomState) -> int:
    """Draw a seed for a generator of our own; the global generators stay untouched."""
    return int(random_state.randint(np.iinfo(np.int32).max))


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator of our own on ``device``."""
    return torch.Generator(device=device).manual_seed(seed)


def standard_noise(seed: int, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers, the same at every call with a seed, in the precision and on the device of ``like``."""
    noise = torch.empty(shape, dtype=torch.float64)
    return noise.normal_(generator=make_generator(seed)).to(like)


def some_rows(n_most: int, random_state: np.random.RandomState, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """At most so many rows of tensors of one length, at random and in their order; nothing is drawn where all are."""
    n_rows = len(tensors[0])
    if n_rows <= n_most:
        return tensors
    chosen = torch.from_numpy(np.sort(random_state.choice(n_rows, n_most, replace=False)))
    return tuple(tensor[chosen.to(tensor.device)] for tensor in tensors)


_local = threading.local()


class _Forks:
    """How many forks lie between this process and the one that imported the package."""

    n_before = 0


@contextmanager
def thread_limit(flops_per_step: float) -> Iterator[int]:
    """Run small steps on one thread, wide ones on all that the caller allows.

    torch keeps its intra-op thread count per calling thread, so that fits in several threads do not disturb each other.

    Parameters
    ----------
    flops_per_step : float
        Floating-point operations between two barriers.

    Yields
    ------
    n_threads : int
        The number of threads in force inside the block; the caller's number is restored after it.
    """
    before, n_forks = torch.get_num_threads(), _Forks.n_before
    depth = getattr(_local, "depth", 0)
    inside = before if depth or flops_per_step >= _FLOPS_PER_STEP_FOR_THREADS else 1
    _local.depth = depth + 1
    if inside != before:
        torch.set_num_threads(inside)
    try:
        yield inside
    finally:
        _local.depth = depth
        if inside != before and n_forks == _Forks.n_before:
            torch.set_num_threads(before)


class _Precision:
    """Fits under way that set torch's precision, and what it was before the first of them."""

    lock = threading.Lock()
    n_fits = 0
    before = "highest"


@contextmanager
def matmul_precision(precision: str | None) -> Iterator[None]:
    """Let float32 matrix products be less exact inside the block.

    torch keeps one setting for the whole process: the last of several fits at a time gives the caller's own back.

    Parameters
    ----------
    precision : str or None
        One of `MATMUL_PRECISIONS`; None changes nothing.
    """
    if precision is None:
        yield
        return
    with _Precision.lock:
        if not _Precision.n_fits:
            _Precision.before = torch.get_float32_matmul_precision()
        _Precision.n_fits += 1
        torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        with _Precision.lock:
            _Precision.n_fits -= 1
            if not _Precision.n_fits:
                torch.set_float32_matmul_precision(_Precision.before)


def _has_autocast(device: str) -> bool:
    """Whether torch keeps an autocast for the device: torch 2.4 refuses the question for "mps"."""
    try:
        torch.is_autocast_enabled(device)
    except RuntimeError:
        return False
    return True


# Of those that a model may lie on.
_AUTOCAST_DEVICES = tuple(filter(_has_autocast, ("cpu", "cuda", "mps")))


class _Dtype:
    """Calls under way that found torch's settings changed, and its default dtype before the first of them."""

    lock = threading.Lock()
    n_calls = 0
    before = torch.float32


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Compute as if the caller had changed none of torch's settings that change results.

    These are the default dtype and device, autocast, and the modes of autograd. Also a decorator. What a user sets for
    speed or for repeatability stays: the precision of products, deterministic algorithms, the number of threads.

    torch keeps one default dtype for the whole process: the last of several calls at a time restores it.
    """
    if _nothing_changed():
        yield
        return
    with _float32_as_default(), ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # turns gradients on, too
        if not _on_cpu_by_default():
            stack.enter_context(torch.device("cpu"))
        for device in filter(torch.is_autocast_enabled, _AUTOCAST_DEVICES):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _nothing_changed() -> bool:
    """Whether torch's own settings are in force, and not only until another call ends."""
    return (
        not _Dtype.n_calls
        and torch.get_default_dtype() == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and _on_cpu_by_default()
        and not any(map(torch.is_autocast_enabled, _AUTOCAST_DEVICES))
    )


@contextmanager
def _float32_as_default() -> Iterator[None]:
    with _Dtype.lock:
        if not _Dtype.n_calls:
            _Dtype.before = torch.get_default_dtype()
            if _Dtype.before != torch.float32:
                torch.set_default_dtype(torch.float32)
        _Dtype.n_calls += 1
    try:
        yield
    finally:
        with _Dtype.lock:
            _Dtype.n_calls -= 1
            if not _Dtype.n_calls and _Dtype.before != torch.float32:
                torch.set_default_dtype(_Dtype.before)


def _on_cpu_by_default() -> bool:
    """Whether a tensor that names no device is on the CPU; `torch.get_default_device` takes ten times as long."""
    try:
        return torch.empty(0).device.type == "cpu"
    except (RuntimeError, AssertionError):  # the default device is not there
        return False


def _after_fork() -> None:
    """Let a forked child work with the one thread that it has.

    OpenMP's threads do not survive a fork, but its library waits for them wherever work is to be shared; and a lock
    that another thread held is held for good.
    """
    torch.set_num_threads(1)
    _Forks.n_before += 1
    _Precision.lock, _Dtype.lock = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)
