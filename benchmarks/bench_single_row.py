"""How long does the score of one row take, one call after another, in milliseconds of CPU time of one thread?

A row is what a service passes: an array of numbers, or one line of a DataFrame of six numbers and eight categories, of
which every value is known to the fit. `check` is what scikit-learn's own validation of that row costs.
"""

import statistics
import warnings

import _common as common
import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.utils.validation import validate_data

from skvae import AutoencoderTransformer, VAETransformer

CALLS = 100
SCORES = {
    "skvae AE": lambda: AutoencoderTransformer(random_state=0),
    "skvae VAE": lambda: VAETransformer(random_state=0),
    "skvae VAE, elbo": lambda: VAETransformer(score_method="elbo", n_draws=1, random_state=0),
}


def mixed(n_samples: int) -> pd.DataFrame:
    """Six columns of numbers and eight of text with two to nine levels, all of which depend on each other."""
    X = common.curved(n_samples, 14).astype(float)
    frame = pd.DataFrame(X[:, :6], columns=[f"number{i}" for i in range(6)])
    for i in range(8):
        levels = np.array([f"level {j}" for j in range(2 + i)])
        places = np.digitize(X[:, 6 + i], np.quantile(X[:, 6 + i], np.linspace(0, 1, 3 + i)[1:-1]))
        frame[f"text{i}"] = levels[places]
    return frame


def main() -> None:
    arguments = common.parse(__doc__)
    warnings.simplefilter("ignore")
    tables = {"array": common.curved(2000, 30).astype(float), "frame of numbers": None, "mixed frame": mixed(2000)}
    tables["frame of numbers"] = pd.DataFrame(tables["array"]).add_prefix("x")
    calls = {}
    for table, X in tables.items():
        for name, make in SCORES.items():
            model = make().fit(X)
            calls[table, name] = lambda model=model, row=X[:1]: model.score_samples(row)
        if table == "array":
            model = IsolationForest(random_state=0).fit(X)
            calls[table, "IsolationForest"] = lambda model=model, row=X[:1]: model.score_samples(row)
            calls[table, "check"] = lambda model=model, row=X[:1]: validate_data(model, row, reset=False)
    many = {name: lambda call=call: [call() for _ in range(CALLS)] for name, call in calls.items()}
    for run in many.values():
        run()
    rows = []
    for (table, name), seconds in common.interleaved(many, arguments.repeats).items():
        rows.append({"row of": table, "who": name, "ms": 1e3 * statistics.median(seconds) / CALLS})
    common.save("single_row", arguments, rows)


if __name__ == "__main__":
    main()
