"""
====================================================================
Mixed tables: which orders contradict themselves, and in what value?
====================================================================

A table of orders holds amounts, a product, a country, a shop out of a hundred, a flag
and blanks. In some rows the product has been mistyped: every cell by itself is
ordinary, and only together they make no sense. The table goes in as it is: no one-hot
columns, no imputer, no scaler.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from skvae import AutoencoderTransformer, VAETransformer
from skvae.display import AnomalyScoreDisplay

PRODUCTS = {
    "bicycle": (500.0, 14.0),
    "helmet": (120.0, 1.0),
    "scooter": (380.0, 8.0),
    "trailer": (250.0, 12.0),
}


def orders(n_rows, seed):
    """The product says price and weight, weight and country say postage."""
    rng = np.random.default_rng(seed)
    product = rng.choice(list(PRODUCTS), n_rows, p=[0.3, 0.3, 0.2, 0.2])
    country = rng.choice(["AT", "CH", "DE", "IT"], n_rows)
    price, weight = np.array([PRODUCTS[name] for name in product]).T * np.exp(
        0.1 * rng.normal(size=(2, n_rows))
    )
    return pd.DataFrame(
        {
            "product": product,
            "price": price.round(2),
            "weight": weight.round(2),
            "country": pd.Categorical(country),
            "postage": (
                (4.0 + weight)
                * (1.0 + (country == "CH"))
                * np.exp(0.1 * rng.normal(size=n_rows))
            ).round(2),
            "items": pd.array(1 + rng.poisson(0.5, n_rows), dtype="Int64"),
            "shop": rng.choice([f"shop {number:02d}" for number in range(100)], n_rows),
            "express": pd.array(
                rng.random(n_rows) < np.where(weight > 5.0, 0.1, 0.5), dtype="boolean"
            ),
        }
    )


train, fresh = orders(1500, seed=0), orders(500, seed=1)
train = train.mask(np.random.default_rng(2).random(train.shape) < 0.03)
rng = np.random.default_rng(3)
wrong = rng.random(len(fresh)) < 0.1
mistyped = fresh.copy()
others = {name: [other for other in PRODUCTS if other != name] for name in PRODUCTS}
mistyped.loc[wrong, "product"] = [
    rng.choice(others[name]) for name in fresh["product"][wrong]
]

# %%
# Which rows?
# -----------
detector = AutoencoderTransformer(random_state=0).fit(train)
both = pd.get_dummies(pd.concat([train, mistyped])).astype(float)
both = both.fillna(both.median())
forest = IsolationForest(random_state=0).fit(both[: len(train)])
print("Area under the ROC curve, mistyped against other rows:")
print(
    "  AutoencoderTransformer     "
    f"{roc_auc_score(wrong, -detector.score_samples(mistyped)):.3f}"
)
print(
    "  IsolationForest on dummies "
    f"{roc_auc_score(wrong, -forest.score_samples(both[len(train) :])):.3f}"
)

# %%
# Which cell, and what should it have held?
# -----------------------------------------
rows = mistyped[wrong][:5]
contributions, expected = detector.explain(rows)
for index, blamed in contributions.idxmin(axis=1).items():
    print(
        f"row {index}: {blamed} is {rows.loc[index, blamed]!r}, expected "
        f"{expected.loc[index, blamed]!r}"
    )

# %%
# Blanks filled, and rows that never were
# ---------------------------------------
# Both come as tables of the same columns, dtypes and categories.
vae = VAETransformer(random_state=0).fit(train)
gaps = fresh[:200].assign(product=pd.Series([None] * 200, dtype="str"))
right = (vae.impute(gaps)["product"] == fresh["product"][:200]).mean()
print(f"{right:.0%} of 200 blank products are filled with the right one.")
drawn = vae.sample(5, random_state=0)
print(drawn.to_string(index=False))
print("dtypes as in the training table:", drawn.dtypes.equals(train.dtypes))

# %%
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
kind = np.where(wrong, "mistyped", "as ordered")
AnomalyScoreDisplay.from_estimator(detector, mistyped, y=kind, ax=ax)
figure.savefig("mixed_columns.png", dpi=90)
