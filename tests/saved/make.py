"""Fit and save the models beside this file, with an earlier version of the package.

    PYTHONPATH=path/to/that/version python tests/saved/make.py

Each becomes ``name.pkl``, ``name.skops`` and ``name.npz``: the rows that were fitted ("X"), others ("fresh"), and what
that version said of them. Frames are stored column by column, a missing word as "". A file that is there stays: what
`tests/test_saved.py` asks is whether old files load. The first are of the commit before the package got folders.
"""

import pickle
import warnings
from pathlib import Path
from zipfile import ZIP_DEFLATED

import numpy as np
import pandas as pd
import skops.io

import skvae
from skvae import AutoencoderTransformer, VAETransformer

__all__ = ["CASES", "FOLDER", "fitted", "main", "outputs", "read_table"]

FOLDER = Path(__file__).parent
SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 12, "random_state": 0}


def numbers(rng, n_rows):
    loadings = np.array([[1.0, -0.5, 2.0, 0.3], [0.2, 1.5, -1.0, 0.8]])
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.2 * rng.normal(size=(n_rows, 4)) + [0.0, 10.0, -3.0, 100.0]


def dirty(rng, n_rows):
    X = numbers(rng, n_rows)
    X[: n_rows // 10] += 8.0 * rng.choice([-1.0, 1.0], size=(n_rows // 10, 4))
    return X


def mixed(rng, n_rows):
    """Numbers, words, booleans and grades, with gaps in each that may have some."""
    size, age, _, _ = numbers(rng, n_rows).T
    words = np.where(size > 0.5, "red", np.where(size < -0.5, "blue", "green"))
    table = {
        "age": np.where(rng.random(n_rows) < 0.1, np.nan, age),
        "size": size,
        "colour": np.where(rng.random(n_rows) < 0.1, "", words),
        "large": size > 0.0,
        "grade": np.array(["low", "middle", "high"])[np.digitize(age, [9.0, 11.0])],
    }
    return as_frame(table)


def counts(rng, n_rows):
    z = rng.normal(size=n_rows)
    return as_frame({
        "visits": rng.poisson(np.exp(1.0 + 0.5 * z)).astype(float),
        "errors": rng.poisson(np.exp(0.3 * z)).astype(float),
        "length": 5.0 + z + 0.2 * rng.normal(size=n_rows),
    })  # fmt: skip


def as_frame(table):
    """A frame of named arrays: "" is a missing word, and grades have an order."""
    columns = {
        name: pd.Series([word or None for word in column.tolist()], dtype=object)
        if column.dtype.kind == "U"
        else column
        for name, column in table.items()
    }
    frame = pd.DataFrame(columns)
    if "grade" in frame:
        levels = pd.Index(["low", "middle", "high"], dtype=object)
        frame["grade"] = frame["grade"].astype(pd.CategoricalDtype(levels, ordered=True))
    return frame


# Name: class, parameters, how rows are drawn.
CASES = {
    "ae": (AutoencoderTransformer, {}, numbers),
    "ae_mixed": (AutoencoderTransformer, {}, mixed),
    "ae_contamination": (AutoencoderTransformer, {"contamination": 0.1}, dirty),
    "ae_neighbor": (AutoencoderTransformer, {"score_method": "neighbor"}, numbers),
    "ae_residual": (AutoencoderTransformer, {"score_method": "residual"}, numbers),
    "ae_stream": (AutoencoderTransformer, {}, numbers),
    "vae": (VAETransformer, {}, numbers),
    "vae_learned": (VAETransformer, {"n_networks": 2, "latent_density": "learned"}, numbers),
    "vae_counts": (VAETransformer, {"likelihood": {"visits": "poisson", "errors": "poisson"}}, counts),
}


def fitted(name, model, X):
    """The model after `fit`, or after three chunks."""
    if name != "ae_stream":
        return model.fit(X)
    for chunk in np.array_split(X, 3):
        model.partial_fit(chunk)
    return model


def outputs(model, X, fresh):
    """What a fitted model says of other rows, and what once it has seen its own again ("later")."""
    said = {
        "score_samples": model.score_samples(fresh),
        "transform": model.transform(fresh),
        "predict": model.predict(fresh),
        "explain": model.explain(fresh)[0],
        "offset_": model.offset_,
        "best_loss_": model.best_loss_,
    }
    if model.contamination == "auto":
        said["p_values"] = model.p_values(fresh)
    twin = pickle.loads(pickle.dumps(model)).partial_fit(X)
    return {key: np.asarray(value) for key, value in said.items()} | {"later": twin.score_samples(fresh)}


def arrays(name, table):
    """A table as named arrays."""
    if isinstance(table, np.ndarray):
        return {name: table}
    return {f"{name}/{column}": _cells(table[column]) for column in table}


def _cells(column):
    if column.dtype.kind in "bf":
        return column.to_numpy()
    return np.array(["" if pd.isna(word) else word for word in column])


def read_table(stored, name):
    """Inverse of `arrays`, from the arrays of a file."""
    if name in stored:
        return stored[name]
    return as_frame({key.split("/")[1]: stored[key] for key in stored if key.startswith(f"{name}/")})


def main():
    """Make the files that are not there yet."""
    print(f"skvae of {Path(skvae.__file__).parent}")
    warnings.simplefilter("ignore")  # twelve epochs are meant to be too few
    for number, (name, (cls, parameters, draw)) in enumerate(CASES.items()):
        if (FOLDER / f"{name}.npz").exists():
            continue
        rng = np.random.default_rng(number)
        X, fresh = draw(rng, 150), draw(rng, 12)
        model = fitted(name, cls(**(SMALL | parameters)), X)
        (FOLDER / f"{name}.pkl").write_bytes(pickle.dumps(model, protocol=4))
        skops.io.dump(model, FOLDER / f"{name}.skops", compression=ZIP_DEFLATED)
        tables = arrays("X", X) | arrays("fresh", fresh)
        np.savez_compressed(FOLDER / f"{name}.npz", **tables, **outputs(model, X, fresh))


if __name__ == "__main__":
    main()
