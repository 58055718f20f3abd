"""
=================================================================
Conditional sampling: what would the other columns be, given one?
=================================================================

442 patients with diabetes: ten measurements, and how far the disease went in a year. A
VAE of all columns answers any "what if" by drawing whole rows that hold what is given.
Patients that it has not seen say whether the spread of such rows is right.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from skvae import VAETransformer

frame = load_diabetes(as_frame=True, scaled=False).frame
frame = frame.rename(columns={"target": "progression", "s5": "log triglycerides"})
frame["sex"] = frame["sex"].map({1: "A", 2: "B"})
train, fresh = train_test_split(frame, test_size=0.4, random_state=0)
vae = VAETransformer(random_state=0).fit(train)

# %%
# A frame of what is known. Its other columns are drawn, 1,000 times for each of its
# rows, and every column of the table is an answer.
given = pd.DataFrame({"bmi": np.arange(18.0, 41.0, 2.0)})
drawn = vae.sample(1000, random_state=0, given=given)
answers = ["bp", "log triglycerides", "progression"]
print(drawn.groupby("bmi")[answers].mean().round(1))

question = pd.DataFrame({"sex": ["A", "B"], "age": 60, "progression": 250})
people = vae.sample(1000, random_state=0, given=question)
print(f"\nOf age 60 and progression 250:\n{people.groupby('sex')['bmi'].describe()}")

# %%
# Are the draws as wide as they should be? Fresh patients, all known but one column:
# nine of ten should lie between the 5 % and 95 % quantiles of their draws.
for column in answers:
    rows = vae.sample(200, random_state=0, given=fresh.drop(columns=column))
    low, high = rows.groupby(level=0)[column].quantile([0.05, 0.95]).unstack().T.values
    truth = fresh[column].sort_index()
    share = ((low <= truth) & (truth <= high)).mean()
    print(f"{column}: {share:.0%} of the fresh values in intervals of 90 %")

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
for ax, column in zip(axes, answers, strict=True):
    levels = drawn.groupby("bmi")[column].quantile([0.05, 0.25, 0.5, 0.75, 0.95])
    levels = levels.unstack()
    ax.fill_between(levels.index, levels[0.05], levels[0.95], alpha=0.2, color="C0")
    ax.fill_between(levels.index, levels[0.25], levels[0.75], alpha=0.3, color="C0")
    ax.plot(levels.index, levels[0.5])
    ax.scatter(fresh["bmi"], fresh[column], s=8, color="black")
    ax.set(title=f"{column}, given the bmi", xlabel="bmi", ylabel=column)
figure.savefig("given_rows.png", dpi=90)
