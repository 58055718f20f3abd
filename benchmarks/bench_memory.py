"""How much memory do a fit and a scoring take beyond the rows themselves?

Each case runs in a process of its own; the peak is of the resident set, less what it was before the call.
"""

import multiprocessing
import warnings
from pathlib import Path

import _common as common
import _peers as peers

N_FEATURES = 30


def status_mib(field: str) -> float:
    """A line of Linux's /proc/self/status, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(case: str, n_samples: int, queue) -> None:
    warnings.simplefilter("ignore")
    X = common.curved(n_samples, N_FEATURES)
    model = peers.skvae_model("AutoencoderTransformer", N_FEATURES, 1024, 1).fit(X[:5000])
    model.score_samples(X[:5000])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status_mib("VmRSS")
    if case == "score":
        model.score_samples(X)
    else:
        peers.skvae_model("AutoencoderTransformer", N_FEATURES, 1024, 1).fit(X)
    queue.put((X.nbytes / 2**20, status_mib("VmHWM") - before))


def main() -> None:
    arguments = common.parse(__doc__)
    context, rows = multiprocessing.get_context("spawn"), []
    for case in ("score", "fit"):
        for n_samples in (100_000, 1_000_000):
            queue = context.Queue()
            process = context.Process(target=measure, args=(case, n_samples, queue))
            process.start()
            size, extra = queue.get()
            process.join()
            rows.append({"case": case, "n": n_samples, "d": N_FEATURES, "rows MiB": size, "extra MiB": extra})
    common.save("memory", arguments, rows)


if __name__ == "__main__":
    main()
