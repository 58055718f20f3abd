"""How long do a fit and a scoring take on an accelerator, beside one thread of the processor?

Wall-clock seconds with the accelerator's queue drained. Without a CUDA device the file says so and nothing else.
"""

import statistics
import time
import warnings
from functools import partial

import _common as common
import _peers as peers
import torch

WORK = (("small net", 100_000, 30, 1024, 5), ("small net", 100_000, 30, 8192, 5), ("wide net", 20_000, 784, 1024, 3))


def seconds(work, repeats: int) -> float:
    """Median wall-clock seconds, after one call that loads code."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def measured(arguments) -> list[dict]:
    rows = []
    for name, n_samples, n_features, batch_size, n_epochs in WORK:
        X = common.curved(n_samples, n_features)
        for kind in ("AutoencoderTransformer", "VAETransformer"):
            row = {"net": name, "n": n_samples, "batch": batch_size, "epochs": n_epochs, "who": kind}
            for device in ("cpu", "cuda"):
                model = peers.skvae_model(kind, n_features, batch_size, n_epochs, device=device)
                row[f"{device} fit s"] = seconds(lambda model=model, X=X: model.fit(X), arguments.repeats)
                row[f"{device} score s"] = seconds(partial(model.score_samples, X[:50_000]), arguments.repeats)
            rows.append(row)
    return rows


def main() -> None:
    arguments = common.parse(__doc__)
    warnings.simplefilter("ignore")
    there = torch.cuda.is_available()
    rows = measured(arguments) if there else [{"CUDA": "not measured: no CUDA device here"}]
    common.save("gpu", arguments, rows, device=torch.cuda.get_device_name() if there else None)


if __name__ == "__main__":
    main()
