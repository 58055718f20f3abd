"""What does a fit with default parameters cost, and the scores of as many rows, by rows and columns?

CPU seconds of one thread pinned to one core, and the most memory of the process beyond what it held before the fit,
which includes the scaled copy of the rows.
"""

import multiprocessing
import statistics
import warnings
from pathlib import Path

import _common as common

from skvae import AutoencoderTransformer, VAETransformer

SIZES = [(500, 10), (500, 30), (5_000, 30), (50_000, 30), (500_000, 30), (5_000, 100), (5_000, 500)]


def status_mib(field: str) -> float:
    """A line of Linux's /proc/self/status, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(kind: type, shape: tuple[int, int], queue) -> None:
    warnings.simplefilter("ignore")
    X = common.curved(*shape)
    kind(max_iter=1, random_state=0).fit(X[:200])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, model = status_mib("VmRSS"), kind(random_state=0)
    fit = common.cpu_seconds(lambda: model.fit(X))
    peak = status_mib("VmHWM") - before
    queue.put({"fit": fit, "score": common.cpu_seconds(lambda: model.score_samples(X)), "peak": peak})


def main() -> None:
    arguments = common.parse(__doc__)
    context, rows = multiprocessing.get_context("fork"), []
    for shape in SIZES:
        row = {"rows": shape[0], "columns": shape[1]}
        for name, kind in (("AE", AutoencoderTransformer), ("VAE", VAETransformer)):
            found = []
            for _ in range(arguments.repeats):
                queue = context.Queue()
                process = context.Process(target=measure, args=(kind, shape, queue))
                process.start()
                found.append(queue.get())
                process.join()
            for what, unit in (("fit", "s"), ("score", "s"), ("peak", "MiB")):
                row[f"{name} {what} {unit}"] = statistics.median(one[what] for one in found)
        rows.append(row)
        print(row, flush=True)
    common.save("default_fit", arguments, rows)


if __name__ == "__main__":
    main()
