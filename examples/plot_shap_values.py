"""
=========================================================================
Explanations: do SHAP values of a score name the same column as explain?
=========================================================================

Eleven columns hang together, and in one row one of them is wrong. ``explain`` repairs
one cell after another and says what should have been there; SHAP values split what the
row's score lacks to the mean of a background. The lines for shap are left out where it
is not installed.
"""

from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvae import AutoencoderTransformer

rng = np.random.default_rng(0)
heat = rng.normal(size=(600, 1))
X = heat + 0.3 * rng.normal(size=(600, 11))
X = pd.DataFrame(X, columns=[f"sensor {number}" for number in range(11)])
normal, row = X[:500], X[500:501].copy()
row["sensor 4"] += 4.0
detector = AutoencoderTransformer(random_state=0).fit(normal)
print(f"score {detector.score_samples(row)[0]:.1f}, threshold {detector.offset_:.1f}")
print(detector.explain(row).to_frame(top=3).round(2).to_string(index=False))


def score(values):
    return detector.score_samples(pd.DataFrame(values, columns=X.columns))


# %%
# SHAP asks for some thousand scores of each row, in batches, and hands on arrays.
contributions, _ = detector.explain(row)
shown = {"explain": contributions.iloc[0]}
if find_spec("shap"):
    import shap

    background = shap.maskers.Independent(normal.to_numpy(), max_samples=50)
    values = shap.Explainer(score, background, seed=0)(row.to_numpy(), silent=True)
    shown["SHAP"] = pd.Series(values.values[0], X.columns)
else:
    print("shap is not installed: its lines were left out.")
for name, column in shown.items():
    share = column["sensor 4"] / column[column < 0].sum()
    print(f"{name}: sensor 4 has {share:.0%} of what lowers the score")

# %%
figure, axes = plt.subplots(
    1, len(shown), figsize=(9, 3.5), layout="constrained", squeeze=False, sharey=True
)
for ax, (name, column) in zip(axes[0], shown.items(), strict=True):
    colors = np.where(X.columns == "sensor 4", "tab:red", "tab:blue")
    ax.barh(X.columns, column, color=colors)
    ax.set(title=name, xlabel="contribution to the score, in nats")
figure.savefig("shap_values.png", dpi=90)
