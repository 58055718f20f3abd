"""
===================================================================
Model registry: how do I store a detector with MLflow and load it?
===================================================================

MLflow's flavour of scikit-learn stores a fitted detector with its version and the
columns that it takes. The format is that of skops, which runs no code when it is loaded
and asks for the one class that it has to trust. The lines for MLflow are left out where
it is not installed.
"""

import tempfile
from importlib.util import find_spec

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer

import skvae
from skvae import AutoencoderTransformer
from skvae.display import AnomalyScoreDisplay, LossCurveDisplay

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
benign, malignant = X[y == 1], X[y == 0]
detector = AutoencoderTransformer(random_state=0).fit(benign[:250])
print(f"skvae {skvae.__version__}, {detector.n_iter_} epochs")

# %%
# A signature makes the loaded model refuse other columns by name. Where a run is open,
# ``mlflow.log_params(detector.get_params())`` and ``mlflow.log_metric`` of the losses
# go beside it.
labels = detector.predict(malignant)
if find_spec("mlflow"):
    import mlflow
    from mlflow.models import infer_signature

    with tempfile.TemporaryDirectory() as folder:
        mlflow.sklearn.save_model(
            detector,
            f"{folder}/model",
            signature=infer_signature(benign[:250], detector.predict(benign[:250])),
            serialization_format="skops",
            skops_trusted_types=["skvae.autoencoder.AutoencoderTransformer"],
            pip_requirements=["skvae"],
        )
        served = mlflow.pyfunc.load_model(f"{folder}/model")
        same = (served.predict(malignant) == labels).all()
    print(f"labels of the loaded model are the same: {same}")
else:
    print("MLflow is not installed: its lines were left out.")
print(f"{(labels == -1).mean():.0%} of malignant samples are flagged")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
LossCurveDisplay.from_estimator(detector, ax=left)
AnomalyScoreDisplay.from_estimator(detector, X[250:], y=y[250:], ax=right)
figure.savefig("mlflow_model.png", dpi=90)
