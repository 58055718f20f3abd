"""How long does it take to score rows that a model has not seen, in CPU seconds of one thread?

Ours are called by `score_samples` with each score on float32 rows, and once on float64 rows; PyOD's by
`decision_function`, as it comes and at the best of several batch sizes. Ours have the layers of PyOD's matched network;
"as it comes" is our default network, which is wider, with the default score. The share of the GEMM rate counts the
matched network's layers and nothing else.
"""

import statistics
import warnings

import _common as common
import _peers as peers

WORK = {"S": (1_000_000, 30), "W": (100_000, 784)}
OURS = {
    "skvae AE, default score": ("AutoencoderTransformer", {}, "float32"),
    "skvae AE as it comes": (
        "AutoencoderTransformer",
        {"n_components": "auto", "hidden_layer_sizes": "auto", "activation": "silu"},
        "float32",
    ),
    "skvae AE, default score, float64": ("AutoencoderTransformer", {}, "float64"),
    "skvae AE, reconstruction": ("AutoencoderTransformer", {"score_method": "reconstruction"}, "float32"),
    "skvae AE, residual": ("AutoencoderTransformer", {"score_method": "residual"}, "float32"),
    "skvae AE, neighbor": ("AutoencoderTransformer", {"score_method": "neighbor"}, "float32"),
    "skvae VAE, elbo": ("VAETransformer", {"score_method": "elbo", "n_draws": 1}, "float32"),
    "skvae VAE, log_likelihood": ("VAETransformer", {"score_method": "log_likelihood"}, "float32"),
    "skvae VAE, default score": ("VAETransformer", {}, "float32"),
}


def pyod(X, *, matched: bool, batch_size: int):
    model = peers.pyod_model("AutoEncoder", X.shape[1], 256, 1, matched=matched).fit(X[:5000])
    model.batch_size = batch_size
    return model


def cell(work: str, arguments) -> list[dict]:
    n_samples, n_features = WORK[work]
    n_samples = int(n_samples * arguments.scale)
    X = common.curved(n_samples, n_features)
    contenders, shares = {}, {}
    for name, (cls, options, dtype) in OURS.items():
        model = peers.skvae_model(cls, n_features, 256, 1, **options).fit(X[:5000])
        # A tenth of the rows for the scores that are costly by design; times are per million rows.
        shares[name] = 0.1 if "neighbor" in name or "elbo" in name or "likelihood" in name else 1.0
        rows = X[: int(shares[name] * n_samples)].astype(dtype, copy=False)
        contenders[name] = lambda model=model, rows=rows: model.score_samples(rows)
    for matched in (False, True):
        for batch_size in (32, 1024, 8192) if matched else (32,):
            name = f"pyod {'matched' if matched else 'as it comes'}, batch {batch_size}"
            shares[name] = 0.2
            model, rows = pyod(X, matched=matched, batch_size=batch_size), X[: n_samples // 5]
            contenders[name] = lambda model=model, rows=rows: model.decision_function(rows)
    for run in contenders.values():
        run()
    seconds = common.interleaved(contenders, arguments.repeats)
    flops, rate = common.layer_flops(peers.widths(n_features)), common.gemm_rate()
    table = []
    for name, values in seconds.items():
        per_row = statistics.median(values) / (shares[name] * n_samples)
        table.append({"work": work, "who": name, "s per million rows": 1e6 * per_row})
        table[-1]["share of GEMM %"] = 100.0 * flops / rate / per_row
    come = next(row for row in table if "pyod as it comes" in row["who"])["s per million rows"]
    best = min(row["s per million rows"] for row in table if "pyod matched" in row["who"])
    for row in table:
        row["x as it comes"], row["x best"] = come / row["s per million rows"], best / row["s per million rows"]
    return table


def main() -> None:
    arguments = common.parse(__doc__, scale={"type": float, "default": 1.0, "help": "share of the rows"})
    warnings.simplefilter("ignore")
    for work in arguments.only.split(",") if arguments.only else WORK:
        rows = cell(work, arguments)
        common.save(f"score_{work}", arguments, rows, gemm_rate=common.gemm_rate(), scale=arguments.scale)


if __name__ == "__main__":
    main()
