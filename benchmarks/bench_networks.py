"""What do eight networks in one fit cost beside eight fits of one, in CPU seconds of one thread?"""

import statistics
import warnings

import _common as common
import _peers as peers

N_NETWORKS, N_EPOCHS = 8, 10


def main() -> None:
    arguments = common.parse(__doc__, batches={"type": int, "nargs": "+", "default": [32, 256, 1024]})
    warnings.simplefilter("ignore")
    X, rows = common.curved(10_000, 30), []

    def fit(batch_size: int, n_networks: int, seed: int = 0) -> None:
        options = {"n_networks": n_networks, "random_state": seed}
        peers.skvae_model("AutoencoderTransformer", 30, batch_size, N_EPOCHS, **options).fit(X)

    for batch_size in arguments.batches:
        fit(batch_size, 1)
        seconds = common.interleaved(
            {
                "together": lambda batch_size=batch_size: fit(batch_size, N_NETWORKS),
                "apart": lambda batch_size=batch_size: [fit(batch_size, 1, seed) for seed in range(N_NETWORKS)],
            },
            arguments.repeats,
        )
        together, apart = (statistics.median(seconds[name]) for name in ("together", "apart"))
        rows.append({"batch": batch_size, "one fit of 8 s": together, "8 fits s": apart, "ratio": apart / together})
    common.save("networks", arguments, rows)


if __name__ == "__main__":
    main()
