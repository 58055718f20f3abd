"""How Sphinx builds the site: ``sphinx-build -W --keep-going -n docs docs/_build/html`` from the root of the checkout.

Neither the build nor a page needs a network. The examples are run, which takes about a minute the first time;
``-D plot_gallery=0`` leaves their pictures out.
"""

import inspect
import re
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import skvae
from skvae._support.compat import DocumentationLinkMixin

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "skvae"
author = "the skvae developers"
copyright = author
version = release = installed_version("skvae")

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "bare_names",
    "changelog",
    "mathml",
    "parameter_groups",
    "results",
]
exclude_patterns = ["_build", "_ext", "_templates", "gallery_header.rst"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100
suppress_warnings = ["config.cache"]

# -- the interface, from the docstrings

autosummary_generate = True
# Pages of the guide that speak of a name, or of what a module holds.
_ESTIMATORS = ("guide/autoencoders", "guide/scores", "guide/tables", "guide/speed", "guide/saving", "choose")
GUIDES = {
    "AutoencoderTransformer": _ESTIMATORS,
    "VAETransformer": ("guide/density", *_ESTIMATORS),
    "skvae.vae": ("guide/autoencoders",),
    "skvae.display": ("guide/pictures",),
    "skvae.report": ("guide/pictures",),
    "skvae.metrics": ("guide/scores", "auto_examples/plot_tune_with_labels"),
    "skvae.impute": ("guide/tables", "auto_examples/plot_impute_regression"),
    "skvae.onnx": ("guide/saving",),
    "skvae.likelihoods": ("guide/tables", "guide/density"),
}
# Beside them, for the table of methods in the template: what scikit-learn's classes bring along is on its pages.
autosummary_context = {
    "guides": lambda module, name: GUIDES.get(name, GUIDES.get(module, ())),
    "own_methods": lambda name: {
        method
        for method, function in inspect.getmembers(getattr(skvae, name), inspect.isfunction)
        if inspect.unwrap(function).__module__.startswith("skvae") and not method.startswith("_")
    },
}
autodoc_typehints = "none"
autodoc_member_order = "alphabetical"
numpydoc_show_class_members = False  # the template lists them, with their own text
numpydoc_xref_param_type = False


def _is_foreign(app, what, name, member, skip, options):
    """Leave out what scikit-learn's mixins bring along: its own pages describe it."""
    function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
    home = getattr(function, "__module__", None) or "skvae"
    return True if what == "class" and home.split(".")[0] != "skvae" else None


def _quote_attributes(app, what, name, thing, options, lines):
    """The underscore at the end of ``n_components_`` would make a link of it where a type names it without quotes."""
    for index, line in enumerate(lines):
        if re.match(r"\S.* : ", line):
            head, _, kind = line.partition(" : ")
            lines[index] = f"{head} : " + re.sub(r"(?<![`\w])([a-z]\w*_)(?![`\w])", r"`\1`", kind)


# -- the examples

# Copies, because each writes its picture beside itself.
_EXAMPLES = HERE / "_build" / "examples"
_EXAMPLES.mkdir(parents=True, exist_ok=True)
for _old in _EXAMPLES.glob("*.py"):
    _old.unlink()
for _source in (HERE.parent / "examples").glob("*.py"):
    shutil.copy2(_source, _EXAMPLES)
shutil.copy2(HERE / "gallery_header.rst", _EXAMPLES / "GALLERY_HEADER.rst")

sphinx_gallery_conf = {
    "examples_dirs": str(_EXAMPLES),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "backreferences_dir": "api/generated/backreferences",
    "doc_module": ("skvae",),
    "reference_url": {},  # no other project's site is asked where its pages are
    "within_subsection_order": "gallery_order.QuickstartFirst",
    "matplotlib_animations": False,
    "write_computation_times": False,
    "show_signature": False,
    "abort_on_example_error": True,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
}

# The gallery shows estimators as notebooks do; there, the link to their page has to work from any folder.
DocumentationLinkMixin._doc_link_template = "../api/generated/skvae.{estimator_name}.html"

# -- the site

html_theme = "pydata_sphinx_theme"
html_title = "skvae"
html_static_path = ["_static"]
html_css_files = ["skvae.css"]
html_math_renderer = "mathml"
# Pages without others below them have no menu of those.
html_sidebars = dict.fromkeys(("install", "choose", "recipes", "changelog"), [])
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def setup(app):
    """Connect what this file adds."""
    app.connect("autodoc-skip-member", _is_foreign)
    app.connect("autodoc-process-docstring", _quote_attributes, priority=400)  # numpydoc's comes at 500
