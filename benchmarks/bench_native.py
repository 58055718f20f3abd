"""What does the native training step bring, in whole fits with default parameters and in eight networks side by side?

The same fits with the step in C and with torch's, in CPU seconds of one thread, taken in turn.
"""

import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial

import _common as common
import _peers as peers

from skvae import AutoencoderTransformer, VAETransformer

KINDS = {"AE": AutoencoderTransformer, "VAE": VAETransformer}
SIZES = [(500, 30), (2_000, 30), (10_000, 30), (10_000, 100)]
BATCHES = [32, 256, 1024]
N_NETWORKS, N_EPOCHS = 8, 10


def default_fit(kind: str, shape: tuple[int, int]) -> None:
    KINDS[kind](random_state=0).fit(common.curved(*shape))


def networks(batch_size: int, seeds: range, n_networks: int) -> None:
    X = common.curved(10_000, 30)
    for seed in seeds:
        options = {"n_networks": n_networks, "random_state": seed}
        peers.skvae_model("AutoencoderTransformer", 30, batch_size, N_EPOCHS, **options).fit(X)


def by_step(native: str, work: Callable[[], None]) -> None:
    os.environ["SKVAE_NATIVE"] = native
    work()


def compare(what: str, native: Callable[[], None], by_torch: Callable[[], None], repeats: int) -> dict:
    contenders = {"native s": partial(by_step, "1", native), "torch s": partial(by_step, "0", by_torch)}
    seconds = common.interleaved(contenders, repeats)
    row = {"work": what} | {name: statistics.median(found) for name, found in seconds.items()}
    row["ratio"] = row["torch s"] / row["native s"]
    print(row, flush=True)
    return row


def main() -> None:
    arguments = common.parse(__doc__)
    warnings.simplefilter("ignore")
    rows = []
    for kind in KINDS:
        default_fit(kind, (500, 30))  # the first call loads code
        for shape in SIZES:
            work = partial(default_fit, kind, shape)
            rows.append(compare(f"{kind}, default, {shape[0]:,} x {shape[1]}", work, work, arguments.repeats))
    for batch_size in BATCHES:
        together = partial(networks, batch_size, range(1), N_NETWORKS)
        apart = partial(networks, batch_size, range(N_NETWORKS), 1)
        name = f"{N_NETWORKS} networks of one fit, batch {batch_size}; torch: {N_NETWORKS} fits"
        rows.append(compare(name, together, apart, arguments.repeats))
    common.save("native", arguments, rows)


if __name__ == "__main__":
    main()
