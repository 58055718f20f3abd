"""`predict` in single backticks, as docstrings and examples write it, leads to the estimator's method of that name.

On a class's own page that class is meant; elsewhere the autoencoder, or the VAE where only it has the name. A name
that neither has stays a warning. Fitted attributes have no place of their own to lead to: they stay code.
"""

import inspect
import re

from sphinx.util.nodes import make_refnode

import skvae

_ESTIMATORS = tuple(skvae.__all__)
_ATTRIBUTES = {
    name
    for cls in _ESTIMATORS
    for names in re.findall(r"^(\w+_(?:, \w+_)*) : ", inspect.getdoc(getattr(skvae, cls)), flags=re.MULTILINE)
    for name in names.split(", ")
}


def _resolve(app, env, node, contnode):
    if node.get("refdomain") != "py" or "." in node.get("reftarget", "."):
        return None
    if node["reftarget"] in _ATTRIBUTES:
        return contnode
    page = node.get("refdoc", "")
    first = [cls for cls in _ESTIMATORS if page.endswith(cls)]
    objects = env.domains.python_domain.objects
    names = [node["reftarget"], *(f"{cls}.{node['reftarget']}" for cls in (*first, *_ESTIMATORS))]
    for name in names:
        found = objects.get(f"skvae.{name}")
        if found is not None:
            return make_refnode(app.builder, page, found.docname, found.node_id, contnode, node["reftarget"])
    return None


def setup(app):
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
