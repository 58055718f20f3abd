"""
=====================================================
Deployment: how do I serve a table with categories?
=====================================================

Insurance claims with text, booleans, integers and amounts, some of them missing. The
graph has one input for each column, under its name, and looks the levels up itself:
whoever serves it sends values, not codes. Levels that it does not know and missing
cells are scored as by the estimator.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import pandas as pd

from skvae import AutoencoderTransformer
from skvae.onnx import to_onnx

COST = {"hail": 7.0, "theft": 8.0, "glass": 5.5, "fire": 9.0}
DTYPES = {"tensor(string)": object, "tensor(double)": float, "tensor(int64)": "int64"}


def claims(n, seed, odd=0.0):
    """Amounts follow the cause, but for some odd claims; a tenth names no garage."""
    rng = np.random.default_rng(seed)
    cause = rng.choice(list(COST), n)
    paid_for = np.where(rng.random(n) < odd, rng.permutation(cause), cause)
    level = np.array([COST[name] for name in paid_for])
    garage = rng.choice(["north", "south", None], n, p=[0.5, 0.4, 0.1])
    return pd.DataFrame(
        {
            "cause": cause,
            "amount": np.exp(level + 0.2 * rng.normal(size=n)).round(2),
            "age": rng.integers(18, 80, n),
            "garage": garage,
            "repeated": rng.random(n) < 0.1,
        }
    )


def feed(session, frame):
    """Each column as the graph takes it: the empty text for a missing one."""
    given = {}
    for column in session.get_inputs():
        cells = frame[[column.name]]
        cells = cells.fillna("") if column.type == "tensor(string)" else cells
        given[column.name] = cells.to_numpy(DTYPES.get(column.type, bool))
    return given


detector = AutoencoderTransformer(random_state=0).fit(claims(3_000, seed=0))
graph = to_onnx(detector, dtype="float64").SerializeToString()
session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
for column in session.get_inputs():
    print(f"{column.name:<10}{column.type}")

# %%
today = claims(300, seed=1, odd=0.1)
today.loc[0, "cause"] = "flood"  # no claim of the fit has it
scores, labels = session.run(["scores", "labels"], feed(session, today))
own = detector.score_samples(today.drop(index=0))
print(f"\nscores differ by at most {np.abs(scores[1:] - own).max():.0e}")
print(f"{(labels == -1).sum()} alarms; flood: score {scores[0]:.1f}, {labels[0]:+d}")
waits = []
for row in range(100):
    one = feed(session, today[row : row + 1])
    started = perf_counter()
    session.run(["labels"], one)
    waits.append(1000 * (perf_counter() - started))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
colors = np.where(labels[1:] > 0, "tab:blue", "tab:red")
left.scatter(-own, -scores[1:], c=colors, s=12)
left.axvline(-detector.offset_, color="grey", lw=1)
left.set(xscale="log", xlim=(10, 1e3), xlabel="minus the score of the estimator")
left.set(yscale="log", ylim=(10, 1e3), ylabel="minus the score of the graph")
right.hist(waits, bins=20)
right.set(xlabel="milliseconds for one claim", ylabel="claims")
figure.savefig("serve_mixed_frame.png", dpi=90)
