"""
====================================================================
Synthetic data: are drawn rows useful, and do they repeat real ones?
====================================================================

Wine, 13 measurements of three kinds. A VAE draws as many rows as it saw; a classifier
that learned from these is tested on real rows, and a report tells how like real rows
they are, and whether they lie closer to training rows than other real rows do.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from skvae import VAETransformer
from skvae.display import SynthesisDisplay
from skvae.report import synthesis_report

frame = load_wine(as_frame=True).frame
frame["target"] = frame["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
train, fresh = train_test_split(frame, test_size=0.4, random_state=0)
vae = VAETransformer(random_state=0).fit(train)
drawn = vae.sample(len(train), random_state=0)
numbers = train.columns[:-1]

# %%
# Useful: the same classifier, trained on real and on drawn rows.
for name, rows in {"real": train, "drawn": drawn}.items():
    forest = RandomForestClassifier(random_state=0).fit(rows[numbers], rows["target"])
    accuracy = forest.score(fresh[numbers], fresh["target"])
    print(f"trained on {name} rows, accuracy on fresh real ones: {accuracy:.3f}")

# %%
# Faithful: can a classifier tell drawn from fresh rows, and how far are columns and
# pairs of columns off? Private: are drawn rows closer to the training rows than fresh
# ones are, and how many are copies? A ratio far below 1 says that rows are repeated. It
# is a hint, no proof: whoever is odd is easy to recognise.
found = synthesis_report(drawn, fresh, train)
print(f"\n{found}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
for ax, name, rows in zip(axes, ("real", "drawn"), (frame, drawn), strict=True):
    for kind, part in rows.groupby("target"):
        ax.scatter(part["flavanoids"], part["color_intensity"], s=12, label=kind)
    ax.set(title=f"{name} rows", xlabel="flavanoids", ylabel="color intensity")
    ax.set(xlim=(0, 5.5), ylim=(0, 14))
axes[0].legend(frameon=False)
figure.savefig("synthetic_rows.png", dpi=90)

# %%
SynthesisDisplay(found).plot().figure_.savefig("synthesis_report.png", dpi=90)
