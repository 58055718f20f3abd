"""How long does a fit of the same network take, in CPU seconds of one thread?

Two fits of different length are taken from each other, so that a row is the time of one epoch; the fixed cost of a fit
(checks, start, densities, threshold) is a column of its own. The peers' fixed cost contains their scoring of the rows.
"""

import os
import statistics
import warnings
from functools import partial

import _common as common
import _peers as peers
import torch

WORK = {"S10k": (10_000, 30), "S100k": (100_000, 30), "W20k": (20_000, 784)}
# Enough epochs that their difference stands out of the noise of the fixed cost; of our own, whose epochs are short, as
# many times as many beside.
OURS_LONGER = 6
EPOCHS = {
    "S10k": {32: (1, 6), 256: (2, 20), 1024: (2, 40)},
    "S100k": {32: (1, 2), 256: (1, 3), 1024: (1, 5)},
    "W20k": {32: (1, 2), 256: (1, 2), 1024: (1, 2)},
}
OURS = {
    "skvae AE": ("AutoencoderTransformer", {}),
    # PyOD's decoder gives a mean alone and its p(z) is N(0, I). Ours learns a noise scale for each column besides; by
    # default its likelihood has tails and noise that follow the code, and a mixture becomes p(z).
    "skvae VAE, matched": (
        "VAETransformer",
        {"likelihood": "gaussian", "scale": "constant", "latent_density": "normal", "dropout": 0.0},
    ),
    "skvae VAE, default": ("VAETransformer", {}),
}
# The same fit without the native step, for what that brings.
BY_TORCH = ", torch step"
REFERENCES = {
    "matched": "pyod AutoEncoder matched",
    "as it comes": "pyod AutoEncoder as it comes",
    "MLP": "MLPRegressor",
}


def cell(work: str, batch_size: int, epochs: tuple[int, int], arguments) -> list[dict]:
    X = common.curved(*WORK[work])
    short, long = epochs

    def ours_fit(cls: str, options: dict, n_epochs: int, native: str) -> None:
        os.environ["SKVAE_NATIVE"] = native
        peers.skvae_model(cls, X.shape[1], batch_size, n_epochs, **options).fit(X)

    def contenders(n_epochs: int) -> dict:
        ours = {
            name + label: partial(ours_fit, cls, options, n_epochs, native)
            for name, (cls, options) in OURS.items()
            for label, native in {"": "1", BY_TORCH: "0"}.items()
        }
        return ours | peers.others(X, batch_size, n_epochs)

    both = {(name, n): run for n in epochs for name, run in contenders(n).items()}
    longest = {name: OURS_LONGER * long if name.startswith("skvae") else long for name in contenders(short)}
    both |= {(name, n): contenders(n)[name] for name, n in longest.items()}
    for run in contenders(1).values():  # the first call of each loads code and allocates
        run()
    seconds = common.interleaved(both, arguments.repeats)
    flops = 3.0 * common.layer_flops(peers.widths(X.shape[1])) * len(X)
    rate = common.gemm_rate()
    rows = []
    for name in contenders(short):
        middle = {n: statistics.median(seconds[name, n]) for n in (short, long, longest[name])}
        epoch = (middle[longest[name]] - middle[short]) / (longest[name] - short)
        rows.append({"work": work, "batch": batch_size, "who": name, "ms per epoch": 1e3 * epoch})
        rows[-1] |= {"fixed ms": 1e3 * (middle[short] - short * epoch), "share of GEMM %": 100.0 * flops / rate / epoch}
        rows[-1] |= {"epochs": long, "fit ms": 1e3 * middle[long]}
    by_name = {row["who"]: row for row in rows}
    for row in rows:
        vae = "VAE" in row["who"]
        for label, reference in REFERENCES.items():
            against = reference.replace("AutoEncoder", "VAE") if vae else reference
            row[f"epoch x {label}"] = by_name[against]["ms per epoch"] / row["ms per epoch"]
            row[f"fit x {label}"] = by_name[against]["fit ms"] / row["fit ms"]
        if row["who"] in OURS:
            by_torch = by_name[row["who"] + BY_TORCH]
            row["epoch x torch step"] = by_torch["ms per epoch"] / row["ms per epoch"]
            row["fit x torch step"] = by_torch["fit ms"] / row["fit ms"]
    return rows


def main() -> None:
    arguments = common.parse(
        __doc__,
        epochs={"type": int, "nargs": 2, "default": None, "help": "lengths of the two fits"},
        batches={"type": int, "nargs": "+", "default": [32, 256, 1024]},
    )
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for work in arguments.only.split(",") if arguments.only else WORK:
        rows: list[dict] = []
        for batch_size in arguments.batches:
            rows += cell(work, batch_size, tuple(arguments.epochs or EPOCHS[work][batch_size]), arguments)
        common.save(f"fit_{work}", arguments, rows, gemm_rate=common.gemm_rate(), repeats=arguments.repeats)


if __name__ == "__main__":
    main()
