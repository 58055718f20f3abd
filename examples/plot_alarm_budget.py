"""
==============================================================
Fraud detection: how do I raise no more than 100 alarms a day?
==============================================================

Card payments, 5,000 a day, as a frame with categories. The detector learns from earlier
ones without labels; the threshold is placed for as many alarms as somebody can look at,
and an alarm names the values that raised it.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvae import AutoencoderTransformer
from skvae.display import AnomalyScoreDisplay, ExplanationDisplay

SHOPS = {"food": (3.0, 13), "fuel": (4.0, 17), "travel": (5.8, 11), "games": (2.5, 21)}
BUDGET, PER_DAY = 100, 5_000


def payments(n, seed, fraud=0.0):
    """Log-amount and hour are those of the shop; thieves mix that up."""
    rng = np.random.default_rng(seed)
    is_fraud = rng.random(n) < fraud
    shop = rng.choice(list(SHOPS), n)
    like = np.where(is_fraud, rng.permutation(shop), shop)
    level, hour = np.array([SHOPS[name] for name in like]).T
    abroad = rng.random(n) < np.where(like == "travel", 0.5, 0.02)
    amount = np.exp(level + 0.15 * rng.normal(size=n)).round(2)
    hour = (hour + rng.normal(0, 1.5, n)) % 24
    columns = {"amount": amount, "hour": hour, "shop": shop, "abroad": abroad}
    return pd.DataFrame(columns), is_fraud


earlier, _ = payments(10_000, seed=0)
recent, _ = payments(10_000, seed=1)
today, is_fraud = payments(PER_DAY, seed=2, fraud=0.005)

# %%
# The rate is the budget divided by the rows; calibration costs no training.
detector = AutoencoderTransformer(random_state=0).fit(earlier)
detector.calibrate(recent, false_alarm_rate=BUDGET / PER_DAY)
alarm = detector.predict(today) == -1
print(f"{alarm.sum()} alarms, {alarm[is_fraud].mean():.0%} of frauds found")
worst = today.iloc[np.argsort(detector.score_samples(today))[:3]]
print(detector.explain(worst).to_frame(top=2).round(2).to_string(index=False))
started = perf_counter()
detector.predict(worst[:1])
print(f"one payment takes {1000 * (perf_counter() - started):.0f} ms")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
kind = np.where(is_fraud, "fraud", "honest")
AnomalyScoreDisplay.from_estimator(detector, today, y=kind, ax=left)
ExplanationDisplay.from_estimator(detector, worst, ax=right)
figure.savefig("alarm_budget.png", dpi=90)
