"""
=======================================================================
Explanations: how do I show a colleague why these rows are alarms?
=======================================================================

Flats with their rent, size, rooms and district. In three of them somebody has mistyped
a value. ``explain`` finds the cells that have to change for a row to be normal, with
what should have been there: as a table for a mail, and as a picture for the meeting.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvae import AutoencoderTransformer
from skvae.display import ExplanationDisplay

PER_METRE = {"centre": 18.0, "harbour": 14.0, "hills": 11.0}


def flats(n, seed):
    rng = np.random.default_rng(seed)
    district = rng.choice(list(PER_METRE), n)
    rooms = rng.integers(1, 6, n)
    size = (18 * rooms + 12 + rng.normal(0, 4, n)).round()
    rate = np.array([PER_METRE[name] for name in district])
    rent = (size * rate * np.exp(0.05 * rng.normal(size=n))).round(-1)
    return pd.DataFrame(
        {"rent": rent, "size": size, "rooms": rooms, "district": district}
    )


detector = AutoencoderTransformer(random_state=0).fit(flats(3_000, seed=0))
today = flats(200, seed=1)
today.loc[20, "rent"] *= 10
today.loc[80, "rooms"] = 1 if today.loc[80, "rooms"] > 3 else 5
today.loc[140, "size"] += 60

# %%
# The worst rows first. A share is the fraction of a row's deficit, so that a colleague
# sees at once whether one cell explains the alarm.
scores = pd.Series(detector.score_samples(today), today.index)
worst = today.loc[scores.nsmallest(3).index]
print(f"{(scores < detector.offset_).sum()} alarms of {len(today)} flats; the worst:\n")
print(worst.to_string())
table = detector.explain(worst).to_frame(top=2)
print("\n" + table.to_string(index=False, float_format="{:.4g}".format))

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), layout="constrained")
for ax, row in zip(axes, worst.index, strict=True):
    ExplanationDisplay.from_estimator(detector, worst.loc[[row]], ax=ax)
    ax.locator_params(axis="x", nbins=3)
    ax.set_title(f"flat {row}, score {scores[row]:.0f}")
figure.savefig("explain_alarm.png", dpi=90)
