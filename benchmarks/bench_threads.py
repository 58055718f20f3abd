"""From how many floating-point operations per step does a second thread pay, and does a busy neighbour hurt a fit?

Wall-clock seconds, as CPU seconds do not show waiting; run it on a machine that is otherwise idle. The neighbour is a
process that spins on one core.
"""

import multiprocessing
import os
import statistics
import time
import warnings

import _common as common
import _peers as peers
import torch


def spin() -> None:
    while True:
        pass


def step_seconds(width: int, batch_size: int, n_threads: int) -> float:
    """Best wall-clock time of one product of a batch with a square matrix and its two gradients."""
    torch.set_num_threads(n_threads)
    x, weight, out = torch.randn(batch_size, width), torch.randn(width, width), torch.empty(batch_size, width)
    gradient = torch.empty(width, width)
    best = float("inf")
    for _ in range(30):
        started = time.perf_counter()
        torch.mm(x, weight, out=out)
        torch.mm(x.T, out, out=gradient)
        torch.mm(out, weight.T, out=x)
        x.normal_()
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(1)
    return best


def fit_seconds(X, repeats: int) -> float:
    values = []
    for _ in range(repeats):
        started = time.perf_counter()
        peers.skvae_model("AutoencoderTransformer", X.shape[1], 32, 3).fit(X)
        values.append(time.perf_counter() - started)
    return statistics.median(values)


def main() -> None:
    arguments = common.parse(__doc__, pin={"type": int, "default": 0, "help": "1 pins to one core"})
    warnings.simplefilter("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    rows = []
    for width, batch_size in ((64, 32), (64, 256), (64, 1024), (128, 1024), (256, 1024), (512, 1024)):
        one, two = (step_seconds(width, batch_size, n) for n in (1, 2))
        rows.append({"case": f"step {width} x {width}, batch {batch_size}", "Mflop": 6e-6 * batch_size * width**2})
        rows[-1] |= {"1 thread ms": 1e3 * one, "2 threads ms": 1e3 * two, "ratio": one / two}
    torch.set_num_threads(2)
    X = common.curved(10_000, 30)
    quiet = fit_seconds(X, arguments.repeats)
    neighbour = multiprocessing.Process(target=spin, daemon=True)
    neighbour.start()
    busy = fit_seconds(X, arguments.repeats)
    neighbour.terminate()
    rows.append({"case": "small fit, quiet and beside a busy core", "1 thread ms": 1e3 * quiet})
    rows[-1] |= {"2 threads ms": 1e3 * busy, "ratio": busy / quiet}
    common.save("threads", arguments, rows)


if __name__ == "__main__":
    main()
