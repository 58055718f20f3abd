"""A directive: the parameters of an estimator by what they are for, each in one group.

The signature is long, and its order says little of what belongs together. A parameter that no group names stops the
build, so that the table stays whole.
"""

import inspect

from docutils import nodes
from docutils.parsers.rst import Directive

import skvae

GROUPS = {
    "size": "n_components hidden_layer_sizes activation n_networks",
    "columns": "likelihood decoder categorical_features standardize marginals scale min_scale binarize",
    "anomalies": "score_method contamination false_alarm_rate calibration_fraction",
    "latent space (VAE)": "beta kl_warmup latent_density n_draws n_training_draws",
    "against copying": "noise dropout alpha",
    "training": "max_iter max_time batch_size learning_rate_init tol warm_start",
    "early stopping": "early_stopping validation_fraction n_iter_no_change",
    "machine": "n_jobs device matmul_precision random_state verbose",
}


class ParameterGroups(Directive):
    required_arguments = 1

    def run(self):
        names = set(inspect.signature(getattr(skvae, self.arguments[0])).parameters)
        missing = names - set(" ".join(GROUPS.values()).split())
        if missing:
            raise self.error(f"No group in parameter_groups.py has these parameters: {', '.join(sorted(missing))}.")
        rows = {title: [name for name in group.split() if name in names] for title, group in GROUPS.items()}
        listing = nodes.definition_list(classes=["parameter-groups"])
        for title, group in rows.items():
            if group:
                text = nodes.paragraph()
                for name in group:
                    text += [nodes.literal(text=name), nodes.Text(" ")]
                term = nodes.term(text=title)
                listing += nodes.definition_list_item("", term, nodes.definition("", text))
        return [nodes.rubric(text="Parameters by what they are for"), listing]


def setup(app):
    app.add_directive("parameter-groups", ParameterGroups)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
