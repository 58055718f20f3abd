"""
==============================================================
Fraud detection: how do I raise no more than 100 alarms a day?
==============================================================

Card payments, 5,000 a day, as a frame with categories. The detector learns from earlier ones without labels; the
threshold is placed for as many alarms as somebody can look at, and an alarm names the values that raised it.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvae import AutoencoderTransformer
from skvae.display import AnomalyScoreDisplay, ExplanationDisplay

SHOPS = {"food": (3.0, 13), "fuel": (4.0, 17), "travel": (5.8, 11), "games": (2.5, 21)}  # log-amount, hour
BUDGET, PER_DAY = 100, 5_000


def payments(n_rows, seed, fraud=0.0):
    """What is bought says how much, when and whether abroad; thieves copy each column, but not what it hangs on."""
    rng = np.random.default_rng(seed)
    is_fraud = rng.random(n_rows) < fraud
    shop = rng.choice(list(SHOPS), n_rows)
    like = np.where(is_fraud, rng.permutation(shop), shop)
    level, hour = np.array([SHOPS[name] for name in like]).T
    abroad = rng.random(n_rows) < np.where(like == "travel", 0.5, 0.02)
    amount = np.exp(level + 0.15 * rng.normal(size=n_rows))
    columns = {"amount": amount.round(2), "hour": (hour + rng.normal(0, 1.5, n_rows)) % 24, "shop": shop}
    return pd.DataFrame(columns | {"abroad": abroad}), is_fraud


earlier, _ = payments(10_000, seed=0)
recent, _ = payments(10_000, seed=1)
today, is_fraud = payments(PER_DAY, seed=2, fraud=0.005)

# %%
# The rate is the budget divided by the rows; calibration costs no training.
detector = AutoencoderTransformer(random_state=0).fit(earlier).calibrate(recent, false_alarm_rate=BUDGET / PER_DAY)
alarm = detector.predict(today) == -1
print(f"{alarm.sum()} alarms, the budget is {BUDGET}; {alarm[is_fraud].mean():.0%} of {is_fraud.sum()} frauds found")
worst = today.iloc[np.argsort(detector.score_samples(today))[:3]]
print(detector.explain(worst).to_frame(top=2).round(2).to_string(index=False))
started = perf_counter()
detector.predict(worst[:1])
print(f"one payment takes {1000 * (perf_counter() - started):.0f} ms")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
AnomalyScoreDisplay.from_estimator(detector, today, y=np.where(is_fraud, "fraud", "honest"), ax=left)
ExplanationDisplay.from_estimator(detector, worst, ax=right)
figure.savefig("alarm_budget.png", dpi=90)
