"""How much memory do a fit and a scoring take beyond the rows themselves, in memory and on disk?

Each case runs in a process of its own; the peak is of the resident set, pages of the mapped file included. For rows in
memory it is less what it was before the call; for a file it is the whole process.
"""

import multiprocessing
import tempfile
import time
import warnings
from pathlib import Path

import _common as common
import _peers as peers
import numpy as np

N_FEATURES = 30
CHUNK = 1_000_000


def status_mib(field: str) -> float:
    """A line of Linux's /proc/self/status, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(case: str, n_samples: int, file: str, queue) -> None:
    warnings.simplefilter("ignore")
    X = np.memmap(file, dtype=np.float32, mode="r", shape=(n_samples, N_FEATURES)) if file else None
    X = common.curved(n_samples, N_FEATURES) if X is None else X
    model = peers.skvae_model("AutoencoderTransformer", N_FEATURES, 1024, 1).fit(np.array(X[:5000]))
    model.score_samples(np.array(X[:5000]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = 0.0 if file else status_mib("VmRSS"), time.perf_counter()
    if case == "score":
        model.score_samples(X)
    elif case == "default fit":
        type(model)(random_state=0).fit(X)
    else:
        peers.skvae_model("AutoencoderTransformer", N_FEATURES, 1024, 1).fit(X)
    queue.put((X.nbytes / 2**20, status_mib("VmHWM") - before, time.perf_counter() - started))


def apart(case: str, n_samples: int, file: str = "") -> dict:
    """Measure a case in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(case, n_samples, file, queue))
    process.start()
    size, peak, seconds = queue.get()
    process.join()
    where = "file" if file else "memory"
    row = {"case": case, "rows in": where, "n": n_samples, "d": N_FEATURES, "rows MiB": size}
    return row | {"extra MiB": "" if file else peak, "process MiB": peak if file else "", "s": seconds}


def write(file: Path, n_samples: int) -> None:
    """Write a table near a curved surface, some rows at a time."""
    rng = np.random.default_rng(0)
    mixing, loadings = rng.normal(size=(8, 32)), rng.normal(size=(32, N_FEATURES)) / 4
    with file.open("wb") as out:
        for first in range(0, n_samples, CHUNK):
            hidden = np.tanh(rng.normal(size=(min(CHUNK, n_samples - first), 8)) @ mixing)
            out.write((hidden @ loadings + 0.1 * rng.normal(size=(len(hidden), N_FEATURES))).astype(np.float32))


def main() -> None:
    arguments = common.parse(__doc__, rows={"type": int, "default": 20_000_000, "help": "rows of the file"})
    rows = [apart(case, n) for case in ("score", "one pass") for n in (100_000, 1_000_000)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.bin"
        write(file, arguments.rows)
        rows += [apart(case, arguments.rows, str(file)) for case in ("default fit", "one pass", "score")]
    common.save("memory", arguments, rows)


if __name__ == "__main__":
    main()
