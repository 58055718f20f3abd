"""
============================================
Deployment: how do I serve it without torch?
============================================

A pipeline of a scaler and a detector is written to one ONNX file. A second Python
process then serves it: in that process the import of torch, scikit-learn and skvae
fails, on purpose. It has numpy, onnxruntime and the file, and returns the scores and
labels that the pipeline returns, at a speed that is shown beside the pipeline's own.
Both run on one thread, in batches of 1,000 rows and, as a service meets them, row by
row.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer
from skvae.onnx import to_onnx

BATCH, SINGLES = 1000, 300

# %%
# What serves
# -----------
# This text is all that the server runs. Setting a name in ``sys.modules`` to None makes
# its import fail.
SERVER = f"""
import json, sys, time
for name in ("torch", "sklearn", "scipy", "skvae", "onnx"):
    sys.modules[name] = None

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    "model.onnx", options, providers=["CPUExecutionProvider"]
)
rows = np.load("rows.npy")

def timed(batches):
    started = time.perf_counter()
    parts = [session.run(["scores", "labels"], {{"X": batch}}) for batch in batches]
    return len(np.concatenate(batches)) / (time.perf_counter() - started), parts

timed([rows[:{BATCH}]])
fast, parts = timed([rows[i : i + {BATCH}] for i in range(0, len(rows), {BATCH})])
single, _ = timed([rows[i : i + 1] for i in range({SINGLES})])
scores, labels = (np.concatenate(part) for part in zip(*parts))
np.savez("served.npz", scores=scores, labels=labels)
loaded = {{name for name, module in sys.modules.items() if module is not None}}
found = {{name: name in loaded for name in ("torch", "skvae")}}
print(json.dumps(dict(batched=fast, single=single, **found)))
"""

# %%
# Fit, and export
# ---------------
X = load_digits().data.astype("float32")
train, test = train_test_split(X, random_state=0)
rng = np.random.default_rng(0)
rows = np.concatenate(
    [test + rng.normal(0, 0.5, test.shape) for _ in range(20)]
).astype("float32")
pipeline = make_pipeline(StandardScaler(), AutoencoderTransformer(random_state=0)).fit(
    train
)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "model.onnx").write_bytes(to_onnx(pipeline).SerializeToString())
    np.save(folder / "rows.npy", rows)
    size = (folder / "model.onnx").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    server = json.loads(done.stdout)
    with np.load(folder / "served.npz") as file:
        served_scores, served_labels = file["scores"], file["labels"]


# %%
# Compare
# -------
def rows_per_second(batches):
    """Of the pipeline, scores and labels at once."""
    started = perf_counter()
    for batch in batches:
        np.where(pipeline.score_samples(batch) >= pipeline[-1].offset_, 1, -1)
    return sum(map(len, batches)) / (perf_counter() - started)


scores, labels = pipeline.score_samples(rows), pipeline.predict(rows)
difference = np.abs(served_scores - scores).max() / np.abs(scores).max()
assert difference < 1e-5
assert (served_labels == labels).mean() > 0.999
batched = rows_per_second([rows[i : i + BATCH] for i in range(0, len(rows), BATCH)])
single = rows_per_second([rows[i : i + 1] for i in range(SINGLES)])
print(
    f"{len(train)} training rows of {X.shape[1]} columns; the file has "
    f"{size / 1e6:.2f} MB"
)
print(f"torch in the server: {server['torch']}, skvae in the server: {server['skvae']}")
print(
    f"scores of {len(rows)} rows differ by {difference:.1e} of the largest, "
    f"{(served_labels != labels).sum()} labels"
)
print(f"\n{'rows per second':<16}{'batches of 1000':>16}{'one by one':>12}")
for label, many, one in (
    ("pipeline", batched, single),
    ("onnxruntime", server["batched"], server["single"]),
):
    print(f"{label:<16}{many:>16,.0f}{one:>12,.0f}")

# %%
figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for shift, label, pair in (
    (-0.2, "pipeline", (batched, single)),
    (0.2, "onnxruntime", (server["batched"], server["single"])),
):
    ax.bar(np.arange(2) + shift, pair, 0.4, label=label)
ax.set_xticks([0, 1], ["batches of 1000", "one by one"])
ax.set(ylabel="rows per second", yscale="log")
ax.legend(frameon=False)
figure.savefig("serve_onnx.png", dpi=90)
