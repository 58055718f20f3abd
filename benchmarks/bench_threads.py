"""Do threads help where they should, and do they keep out of the way where they should not?

Wall-clock seconds, so the machine must be quiet. "busy" is a fit beside a process that keeps every other core at work;
"threads" compares one thread with all that there are; "jobs" the scores of a long table and a fit of eight networks by
one thread and by two;
"search" is a grid search with one and with two jobs; "step" is one training step at growing widths, with one thread and
with two: where two begin to pay is what `_device` has to know.
"""

import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import _common as common
import _peers as peers
import torch
from sklearn.model_selection import GridSearchCV

from skvae import AutoencoderTransformer, VAETransformer

WIDTHS = (64, 128, 192, 256, 384, 512, 768, 1024)


def spin() -> None:
    """Keep a core at work."""
    x = 0
    while True:
        x += 1


def seconds(work, repeats: int) -> float:
    """Median wall-clock seconds, after one call that loads code."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def fit(X, batch_size: int, n_epochs: int) -> None:
    peers.skvae_model("AutoencoderTransformer", X.shape[1], batch_size, n_epochs).fit(X)


def busy(arguments) -> list[dict]:
    X = common.curved(int(10_000 * arguments.scale), 30)
    quiet = seconds(lambda: fit(X, 256, 20), arguments.repeats)
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(max(1, os.cpu_count() - 1))]
    for process in others:
        process.start()
    beside = seconds(lambda: fit(X, 256, 20), arguments.repeats)
    for process in others:
        process.terminate()
    return [
        {"what": "small net, other cores busy", "before s": quiet, "after s": beside, "after / before": beside / quiet}
    ]


def threads(arguments) -> list[dict]:
    rows = []
    for name, n_samples, n_features, batch_size, n_epochs in (
        ("small net", 10_000, 30, 256, 20),
        ("wide net", 20_000, 784, 1024, 5),
    ):
        X = common.curved(int(n_samples * arguments.scale), n_features)
        times = {}
        for n_threads in (1, os.cpu_count()):
            torch.set_num_threads(n_threads)
            times[n_threads] = seconds(partial(fit, X, batch_size, n_epochs), arguments.repeats)
        one, all_of_them = times[1], times[os.cpu_count()]
        rows.append({"what": f"{name}, all threads", "before s": one, "after s": all_of_them})
        rows[-1]["before / after"] = one / all_of_them
    return rows


def jobs(arguments) -> list[dict]:
    """``n_jobs=2`` on tables of 30 columns."""
    long, middle, short = (common.curved(int(n * arguments.scale), 30) for n in (1_000_000, 10_000, 2000))
    detector = AutoencoderTransformer(random_state=0).fit(short)
    work: dict[str, Callable[[int], Any]] = {
        f"scores of {len(long):,} rows": lambda n_jobs: detector.set_params(n_jobs=n_jobs).score_samples(long),
    }
    for cls in (AutoencoderTransformer, VAETransformer):
        model = cls(n_networks=8, random_state=0)
        work[f"fit of 8 networks, {cls.__name__}"] = lambda n, model=model: model.set_params(n_jobs=n).fit(middle)
    rows = []
    for what, run in work.items():
        one, two = (seconds(partial(run, n_jobs), arguments.repeats) for n_jobs in (1, 2))
        rows.append({"what": f"{what}, n_jobs=2", "before s": one, "after s": two, "before / after": one / two})
    return rows


def search(arguments) -> list[dict]:
    X = common.curved(int(10_000 * arguments.scale), 30)
    model = peers.skvae_model("AutoencoderTransformer", 30, 256, 20)
    times = {}
    for n_jobs in (1, 2):
        grid = GridSearchCV(model, {"n_components": list(range(1, 9))}, cv=5, n_jobs=n_jobs)
        times[n_jobs] = seconds(lambda grid=grid: grid.fit(X), arguments.repeats)
    row = {"what": "search of 40 small fits, two jobs", "before s": times[1], "after s": times[2]}
    return [row | {"before / after": times[1] / times[2]}]


def step(width: int, n_threads: int, repeats: int) -> tuple[float, float]:
    """Floating-point operations and seconds of one step on a batch of 256."""
    from skvae._networks.mlp import SkipMLP
    from skvae._networks.modules import AutoencoderModule, Batch
    from skvae._training.engine import Engine
    from skvae._training.steps import STEPS
    from skvae.likelihoods import Gaussian

    torch.set_num_threads(n_threads)
    encoder, decoder = SkipMLP(width, 16, (width,), "relu"), SkipMLP(16, width, (width,), "relu")
    module = AutoencoderModule(encoder, decoder, Gaussian(width, scale="unit"))
    module.flat.data.normal_(0.0, 0.01, generator=torch.Generator().manual_seed(0))
    x = torch.randn(256, width, generator=torch.Generator().manual_seed(1))
    run, batch = Engine(module, STEPS).step(256), Batch(x, x)
    with torch.no_grad():
        n_calls = max(3, int(0.2 / seconds(lambda: run(batch, 1.0), 3)))
        took = seconds(lambda: [run(batch, 1.0) for _ in range(n_calls)], repeats) / n_calls
    return 6.0 * 256 * module.flops_per_row, took


def steps(arguments) -> list[dict]:
    rows = []
    for width in WIDTHS:
        (flops, one), (_, two) = (step(width, n_threads, arguments.repeats) for n_threads in (1, 2))
        rows.append({"what": f"step of width {width}, two threads", "before s": one, "after s": two})
        rows[-1] |= {"before / after": one / two, "million operations": flops / 1e6}
    return rows


PARTS = {"busy": busy, "threads": threads, "jobs": jobs, "search": search, "step": steps}


def main() -> None:
    arguments = common.parse(__doc__, scale={"type": float, "default": 1.0, "help": "share of the rows"})
    warnings.simplefilter("ignore")
    os.sched_setaffinity(0, range(os.cpu_count()))
    torch.set_num_threads(os.cpu_count())
    rows: list[dict] = []
    for name in arguments.only.split(",") if arguments.only else PARTS:
        rows += PARTS[name](arguments)
    columns = ("what", "before s", "after s", "after / before", "before / after", "million operations")
    rows = [{column: row.get(column, "") for column in columns} for row in rows]
    common.save("threads", arguments, rows, scale=arguments.scale, load=os.getloadavg()[0])


if __name__ == "__main__":
    main()
