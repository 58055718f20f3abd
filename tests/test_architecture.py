"""The laws of CONTRIBUTING.md that a machine can check, most of them read from the source."""

import ast
import functools
import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "skvae"

# From the ground up: a file imports from its own folder and from those before it; CONTRIBUTING.md has this as a table.
ORDER = (
    "_support < likelihoods, _densities, _tables < _data < _networks < _training < _model < _estimators"
    " < autoencoder, vae < display, report, impute, metrics, onnx"
)
ROOMS = {room: rank for rank, rooms in enumerate(ORDER.split(" < ")) for room in rooms.split(", ")}
ROOMS["__init__"] = max(ROOMS.values()) + 1  # the package's face

MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
FACES = {name for name in MODULES if name.endswith("__init__")}
OUTSIDERS = {"display", "impute", "metrics", "onnx", "report"}  # they know an estimator by its public names only
WITH_ESTIMATORS = {"_estimators", "autoencoder", "vae"}
OPTIONAL_DEPENDENCIES = {"matplotlib", "rich", "onnx", "skl2onnx", "skops", "pandas", "polars", "pyarrow"}
EXPERIMENTAL_SKLEARN = ("sklearn.callback", "sklearn.experimental", "sklearn.utils._array_api")
GLOBAL_STATE = (
    *("torch.cuda", "torch.mps", "torch.distributed", "torch.random"),
    *("torch.manual_seed", "torch.seed", "torch.set_rng_state"),
    *("torch.set_num_threads", "torch.set_num_interop_threads"),
    *("torch.set_default_dtype", "torch.set_default_device", "torch.use_deterministic_algorithms"),
    *("numpy.random.seed", "numpy.random.set_state", "random.seed", "random.setstate"),
)
MAX_MODULE_LINES = 600
# Tested through what is built on them.
TESTED_WITH = {
    "anomalies": "display",
    "synthesis": "report",
    "curves": "display",
    "views": "display",
    "bounds": "oracles",
    "calibration": "detection",
    "checks": "compat",
    "arrays": "compat",
    "autoencoder_plan": "autoencoder",
    "design": "preparing",
    "features": "base",
    "finishing": "preparing",
    "fitting": "team",
    "fitted": "preparing",
    "plan": "preparing",
    "reading": "base",
    "refusals": "onnx",
    "row_scores": "detection",
    "vae_plan": "vae",
    "writer": "onnx",
    "continuous": "likelihoods",
    "density": "residuals",
    "discrete": "likelihoods",
    "drawing": "display",
    "averages": "impute",
    "codes": "vae",
    "conditions": "conditional",
    "known": "conditional",
    "sampling": "conditional",
    "encoding": "by_column",
    "expansion": "cycles",
    "export": "onnx",
    "finding": "table",
    "cells": "table",
    "dtypes": "table",
    "form": "table",
    "kinds": "table",
    "graph": "onnx",
    "groups": "likelihoods",
    "incomplete_starts": "starts",
    "labelled": "known_anomalies",
    "latent": "density",
    "monotone": "marginals",
    "neighbors": "residuals",
    "progress": "compat",
    "sample": "columns",
    "shards": "team",
    "training": "span",
}
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
# Stand-ins with scikit-learn's own signatures, and the way from a pipeline to its last step.
KNOWS_SCIKIT_LEARN = {"_support.compat", "_support.drawing"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- Reading the source ---------------------------------------------------------------------------------------------


@functools.cache
def walk(tree: ast.AST) -> tuple[ast.AST, ...]:
    """What `ast.walk` finds, once for all laws."""
    return tuple(ast.walk(tree))


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    return (node for node in walk(tree) if isinstance(node, Function))


def imports(tree: ast.AST, name: str = "__init__") -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, anywhere in ``tree``: ``from a import b`` gives a.b."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{source_of(node, name)}.{alias.name}") for alias in node.names)


def source_of(node: ast.ImportFrom, name: str) -> str:
    """The absolute module of ``from ... import`` in the module ``name``."""
    if not node.level:
        return node.module or ""
    folders = ["skvae", *name.split(".")[:-1]]
    return ".".join(filter(None, [*folders[: len(folders) - node.level + 1], node.module or ""]))


def sibling(dotted: str) -> str | None:
    """The module of this package that an import reaches, or None for somebody else's."""
    root, *rest = dotted.split(".")
    if root != "skvae":
        return None
    for n_parts in range(len(rest), 0, -1):
        found = ".".join(rest[:n_parts])
        if found in MODULES or f"{found}.__init__" in MODULES:
            return found if found in MODULES else f"{found}.__init__"
    return "__init__"


def room(name: str) -> str:
    """The folder, or the file at the front door, that a module belongs to."""
    return name.split(".")[0]


@functools.cache
def aliases(tree: ast.AST, name: str = "__init__") -> dict[str, str]:
    """Local name -> absolute dotted name, for every import of the module."""
    names = {}
    for node in walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{source_of(node, name)}.{a.name}" for a in node.names}
    return names


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every attribute reached through an imported name."""
    names = aliases(tree)
    for node in walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in names:
            yield node.lineno, ".".join([names[inner.id], *reversed(parts)])


def within(dotted: str, prefixes: tuple[str, ...]) -> bool:
    return any(dotted == prefix or dotted.startswith(prefix + ".") for prefix in prefixes)


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def exported(tree: ast.Module) -> list[str] | None:
    """The names of ``__all__``, or None where there is no literal one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def defined(tree: ast.Module) -> set[str]:
    """The names that a module binds at its top level, imports and branches of ``if`` and ``try`` included."""
    names: set[str] = set()
    queue: list[ast.stmt] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            queue += [*node.body, *getattr(node, "orelse", [])]
            queue += [stmt for handler in getattr(node, "handlers", []) for stmt in handler.body]
        else:
            names |= {n.id for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


# --- The laws: each takes a module's name and tree and returns the broken places ------------------------------------


def imports_upward(name: str, tree: ast.Module) -> list[str]:
    """A file imports from its own folder and from lower ones only, ``TYPE_CHECKING`` or not."""
    reached = sorted({(line, other) for line, dotted in imports(tree, name) if (other := sibling(dotted))})
    rank = ROOMS.get(room(name), -1)  # a folder without a place may import nothing and be imported by nothing
    return [
        f"{line}: {name} imports {other}"
        for line, other in reached
        if ROOMS.get(room(other), rank) >= rank and (room(other) != room(name) or other == name)
    ]


def hidden_imports(name: str, tree: ast.Module) -> list[str]:
    """An import stands at the top of the file, unless the dependency is optional."""
    inside = {found for node in functions(tree) for found in imports(node, name)}
    dynamic = {
        (node.lineno, argument.value)
        for node in walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")).endswith("import_module")
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
    return [
        f"{line}: {dotted} is imported inside a function"
        for line, dotted in sorted(inside | dynamic)
        if dotted.split(".")[0] not in OPTIONAL_DEPENDENCIES
    ]


def wrong_exports(name: str, tree: ast.Module) -> list[str]:
    """``__all__`` is there, names what exists, and holds every public class and function of the file."""
    names = exported(tree)
    if names is None:
        return [] if name in FACES and len(tree.body) == 1 else ["1: no __all__"]
    public = {n.name for n in tree.body if isinstance(n, Function | ast.ClassDef) and not n.name.startswith("_")}
    return [
        *(f"1: __all__ names {missing}, which does not exist" for missing in sorted(set(names) - defined(tree))),
        *(f"1: {forgotten} is public and not in __all__" for forgotten in sorted(public - set(names))),
        *(f"1: __all__ names {twice} twice" for twice in sorted({n for n in names if names.count(n) > 1})),
    ]


def private_sklearn(name: str, tree: ast.Module) -> list[str]:
    """Only ``compat`` knows names that scikit-learn may change without notice."""
    if name == "_support.compat":
        return []
    return [
        f"{line}: {dotted} is private or experimental"
        for line, dotted in sorted({*imports(tree, name), *uses(tree)})
        if dotted.split(".")[0] == "sklearn"
        and (any(map(is_private, dotted.split("."))) or within(dotted, EXPERIMENTAL_SKLEARN))
    ]


def global_state(name: str, tree: ast.Module) -> list[str]:
    """Only ``device`` seeds, sets threads or asks for an accelerator, only ``team`` for other processes."""
    allowed = {"_support.device": GLOBAL_STATE, "_support.team": ("torch.distributed",)}.get(name, ())
    return [
        f"{line}: {dotted}"
        for line, dotted in sorted({*imports(tree, name), *uses(tree)})
        if within(dotted, GLOBAL_STATE) and not within(dotted, allowed)
    ]


def long_functions(name: str, tree: ast.Module) -> list[str]:
    """A function's body, docstring aside, stops at 60 lines."""
    broken = []
    for node in functions(tree):
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if length > MAX_FUNCTION_LINES:
            broken.append(f"{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")
    return broken


def long_signatures(name: str, tree: ast.Module) -> list[str]:
    """A function takes at most six parameters; ``__init__`` mirrors a record or an estimator and may take more."""
    broken = []
    for node in functions(tree):
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        n_parameters = len([n for n in names if n not in ("self", "cls")])
        if n_parameters > MAX_PARAMETERS and node.name != "__init__":
            broken.append(f"{node.lineno}: {node.name} takes {n_parameters} parameters, at most {MAX_PARAMETERS}")
    return broken


def estimators_below(name: str, tree: ast.Module) -> list[str]:
    """Below the estimators' folder nothing is handed an estimator, and nothing calls what is private to one."""
    if ROOMS.get(room(name), 0) >= ROOMS["_estimators"] or name in KNOWS_SCIKIT_LEARN:
        return []
    parameters = (argument for node in functions(tree) for argument in (*node.args.args, *node.args.kwonlyargs))
    private = {"_fitted", "_plan", "_publish", "get_params"}
    return [
        *(f"{a.lineno}: {a.arg} is handed down" for a in parameters if a.arg in ("estimator", "self_", "pipeline")),
        *(f"{n.lineno}: .{n.attr}" for n in walk(tree) if isinstance(n, ast.Attribute) and n.attr in private),
    ]


def asserts(name: str, tree: ast.Module) -> list[str]:
    """``assert`` vanishes under ``python -O``: raise instead."""
    return [f"{node.lineno}: assert" for node in walk(tree) if isinstance(node, ast.Assert)]


def stray_warnings(name: str, tree: ast.Module) -> list[str]:
    """A warning goes through ``_support.warnings``, which finds the user's line."""
    if name == "_support.warnings":
        return []
    found = sorted({*imports(tree, name), *uses(tree)})
    return [
        f"{line}: {dotted}" for line, dotted in found if within(dotted, ("warnings.warn", "warnings.warn_explicit"))
    ]


def catch_all_keywords(name: str, tree: ast.Module) -> list[str]:
    """``**kwargs`` swallows a misspelt parameter and hides the others from ``get_params``."""
    if room(name) not in WITH_ESTIMATORS:
        return []
    methods = (node for cls in walk(tree) if isinstance(cls, ast.ClassDef) for node in functions(cls))
    return [f"{node.lineno}: {node.name} takes **{node.args.kwarg.arg}" for node in methods if node.args.kwarg]


def foreign_privates(name: str, tree: ast.Module) -> list[str]:
    """The top level reaches an estimator through public names only."""
    if room(name) not in OUTSIDERS:
        return []
    return [
        f"{node.lineno}: .{node.attr}"
        for node in walk(tree)
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]


LAWS = {
    law.__name__: law
    for law in (
        imports_upward,
        hidden_imports,
        wrong_exports,
        private_sklearn,
        global_state,
        long_functions,
        long_signatures,
        estimators_below,
        asserts,
        stray_warnings,
        catch_all_keywords,
        foreign_privates,
    )
}


# --- The package obeys them -----------------------------------------------------------------------------------------

TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def test_every_folder_has_a_place_in_the_order():
    """Without this, the parametrized tests below would pass on an empty folder."""
    assert {room(name) for name in MODULES} == set(ROOMS)


def test_contributing_shows_the_order():
    """Its table, from the ground up, is the line above."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    floors = re.findall(r"^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    shown = [", ".join(re.findall(r"`(\w+)`", names)) for _, names in reversed(floors)]
    assert [int(floor) for floor, _ in reversed(floors)] == list(range(1, len(floors) + 1))
    assert " < ".join(shown) == ORDER


@pytest.mark.parametrize("name", sorted(FACES - {"__init__"}))
def test_a_folder_says_what_lives_there_and_what_may_not(name):
    assert len([line for line in ast.get_docstring(TREES[name]).split("\n\n") if line.strip()]) >= 2


@pytest.mark.parametrize("folder", sorted({room(name) for name in FACES if name.startswith("_") and "." in name}))
def test_a_private_folder_has_a_map(folder):
    """Its docstring names every file of it, and no other."""
    files = {name.partition(".")[2] for name in MODULES if room(name) == folder} - {"__init__"}
    assert set(re.findall(r"``(\w+)``", ast.get_docstring(TREES[f"{folder}.__init__"]))) == files


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """Modules that reach themselves."""
    reached = {name: set(targets) for name, targets in edges.items()}
    for middle in reached:
        for targets in reached.values():
            targets |= reached[middle] if middle in targets else set()
    return sorted(name for name, targets in reached.items() if name in targets)


def test_no_two_files_of_a_folder_import_each_other():
    edges = {
        name: {other for _, dotted in imports(tree, name) if (other := sibling(dotted)) and other != name}
        for name, tree in TREES.items()
    }
    assert cycles(edges) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


@pytest.mark.parametrize("law", LAWS)
def test_modules_obey_law(law):
    problems = {name: LAWS[law](name, tree) for name, tree in TREES.items()}
    assert {name: found for name, found in problems.items() if found} == {}


def test_module_length():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_modules_have_a_test_file():
    files = {name: name.rsplit(".", 1)[-1] for name in set(MODULES) - FACES}
    expected = {name: ROOT / "tests" / f"test_{TESTED_WITH.get(file, file)}.py" for name, file in files.items()}
    assert [name for name, path in expected.items() if not path.is_file()] == []


def test_siblings_import_only_exported_names():
    """What another module uses is in ``__all__``: a module has one border, not two."""
    stray = [
        f"{name}: {dotted}"
        for name, tree in TREES.items()
        for _, dotted in imports(tree, name)
        if (other := sibling(dotted)) in set(TREES) - FACES and dotted != f"skvae.{other}"
        if dotted.rsplit(".", 1)[1] not in (exported(TREES[other]) or [])
    ]
    assert stray == []


def concrete_parents(classes: list[type]) -> list[str]:
    """Names of those that another one extends although nothing marks them as abstract."""
    parents = {base for cls in classes for base in cls.__bases__ if base in classes}
    return sorted(base.__name__ for base in parents if ABC not in base.__bases__ and not inspect.isabstract(base))


def test_a_class_with_children_is_abstract():
    """Abstract or final: reading a call then tells which code runs."""
    modules = [
        importlib.import_module(f"skvae.{name}") for name in sorted(set(MODULES) - {"__init__", "_support.compat"})
    ]
    # compat holds stand-ins for scikit-learn's own classes, which are meant to be extended.
    classes = {c for m in modules for c in vars(m).values() if inspect.isclass(c) and c.__module__ == m.__name__}
    assert concrete_parents(sorted(classes, key=str)) == []


def test_concrete_parent_is_seen():
    class Abstract(ABC):
        @abstractmethod
        def f(self): ...

    class StillAbstract(Abstract): ...

    class Final(StillAbstract):
        def f(self): ...

    class Variant(Final): ...

    assert concrete_parents([Abstract, StillAbstract, Final]) == []
    assert concrete_parents([Abstract, StillAbstract, Final, Variant]) == ["Final"]


def test_the_package_exports_the_two_estimators():
    assert set(exported(TREES["__init__"])) - {"__version__"} == {"AutoencoderTransformer", "VAETransformer"}
    assert "__version__" in defined(TREES["__init__"])


# --- The checkers see what they should ------------------------------------------------------------------------------

LONG = "def f():\n    '''One line.'''\n" + "    x = 1\n" * MAX_FUNCTION_LINES

BAD = [
    (
        "imports_upward",
        "_networks.mlp",
        "from skvae._estimators.base import f",
        "1: _networks.mlp imports _estimators.base",
    ),
    ("imports_upward", "_tables.table", "from .._networks.mlp import f", "1: _tables.table imports _networks.mlp"),
    ("imports_upward", "_tables.table", "from .. import _networks", "1: _tables.table imports _networks.__init__"),
    (
        "imports_upward",
        "_densities.mixture",
        "from ..likelihoods import f",
        "1: _densities.mixture imports likelihoods.__init__",
    ),
    ("imports_upward", "vae", "import skvae.autoencoder", "1: vae imports autoencoder"),
    ("imports_upward", "vae", "from skvae import AutoencoderTransformer", "1: vae imports __init__"),
    ("imports_upward", "_tables.form", "if TYPE_CHECKING:\n    from ..vae import f", "2: _tables.form imports vae"),
    ("imports_upward", "_tables.form", "def f():\n    from ..vae import g", "2: _tables.form imports vae"),
    ("imports_upward", "unlisted.file", "from .._support import device", "1: unlisted.file imports _support.device"),
    ("hidden_imports", "vae", "def f():\n    import scipy", "2: scipy is imported inside a function"),
    (
        "hidden_imports",
        "vae",
        "async def f():\n    from ._tables.form import g",
        "2: skvae._tables.form.g is imported inside a function",
    ),
    ("hidden_imports", "vae", "importlib.import_module('skvae.vae')", "1: skvae.vae is imported inside a function"),
    ("wrong_exports", "vae", "x = 1", "1: no __all__"),
    ("wrong_exports", "vae", "__all__ = ['f', 'f']\ndef f(): ...", "1: __all__ names f twice"),
    ("wrong_exports", "vae", "__all__ = ['g']", "1: __all__ names g, which does not exist"),
    ("wrong_exports", "vae", "__all__ = []\nclass A: ...", "1: A is public and not in __all__"),
    (
        "private_sklearn",
        "vae",
        "from sklearn.utils._tags import f",
        "1: sklearn.utils._tags.f is private or experimental",
    ),
    (
        "private_sklearn",
        "vae",
        "from sklearn.utils.validation import _num_samples",
        "1: sklearn.utils.validation._num_samples is private or experimental",
    ),
    ("private_sklearn", "vae", "from sklearn.callback import f", "1: sklearn.callback.f is private or experimental"),
    ("private_sklearn", "vae", "from sklearn import callback", "1: sklearn.callback is private or experimental"),
    (
        "private_sklearn",
        "vae",
        "import sklearn.utils as u\nu._tags",
        "2: sklearn.utils._tags is private or experimental",
    ),
    ("global_state", "vae", "import torch\ntorch.manual_seed(0)", "2: torch.manual_seed"),
    ("global_state", "vae", "import torch as t\nt.set_num_threads(1)", "2: torch.set_num_threads"),
    ("global_state", "vae", "from torch import cuda", "1: torch.cuda"),
    ("global_state", "vae", "import torch\nif torch.cuda.is_available(): ...", "2: torch.cuda"),
    ("global_state", "vae", "import numpy as np\nnp.random.seed(0)", "2: numpy.random.seed"),
    ("long_functions", "vae", LONG + "    return x\n", "1: f has 61 lines, at most 60"),
    (
        "long_signatures",
        "vae",
        "def f(a, b, c, *, d, e, g, h): ...",
        "1: f takes 7 parameters, at most 6",
    ),
    ("estimators_below", "_model.plan", "def f(estimator): ...", "1: estimator is handed down"),
    ("estimators_below", "_model.plan", "def f(x):\n    return x._fitted", "2: ._fitted"),
    ("asserts", "vae", "def f(x):\n    assert x", "2: assert"),
    ("stray_warnings", "vae", "import warnings\nwarnings.warn('a')", "2: warnings.warn"),
    ("stray_warnings", "vae", "from warnings import warn", "1: warnings.warn"),
    ("catch_all_keywords", "vae", "class A:\n    def fit(self, **options): ...", "2: fit takes **options"),
    ("foreign_privates", "display", "def f(model):\n    return model._module", "2: ._module"),
]
GOOD = [
    (
        "imports_upward",
        "vae",
        "import torch\nfrom ._estimators.base import BaseAutoencoder\nfrom skvae.likelihoods import f",
    ),
    ("imports_upward", "_tables.table", "from .form import f\nfrom . import form"),
    ("imports_upward", "__init__", "from .vae import VAETransformer"),
    ("hidden_imports", "display", "def f():\n    import matplotlib.pyplot as plt\n    from pandas import DataFrame"),
    (
        "wrong_exports",
        "vae",
        "__all__ = ['A', 'f', 'g']\ntry:\n    from a import f\nexcept ImportError:\n    f = g = 1\nclass A: ...",
    ),
    ("private_sklearn", "_support.compat", "from sklearn.utils._tags import f\nimport sklearn.callback"),
    ("private_sklearn", "vae", "import sklearn\nfrom sklearn.base import BaseEstimator\nsklearn.__version__"),
    ("global_state", "_support.device", "import torch\ntorch.manual_seed(0)"),
    ("global_state", "vae", "import torch\ntorch.Generator().manual_seed(0)\nmodel.seed(0)"),
    ("long_functions", "vae", LONG),
    (
        "long_signatures",
        "vae",
        "class A:\n    def __init__(self, a, b, c, d, e, f, g): ...\n    def f(self, a, b, c, d, e, f): ...",
    ),
    ("estimators_below", "_estimators.base", "def f(estimator):\n    return estimator._fitted"),
    ("estimators_below", "display", "def f(estimator): ..."),
    ("catch_all_keywords", "display", "class A:\n    def plot(self, **options): ..."),
    ("foreign_privates", "display", "class A:\n    def f(self, model):\n        self._x = model.__class__"),
    ("foreign_privates", "vae", "def f(model):\n    return model._module"),
]


@pytest.mark.parametrize(("law", "name", "source", "expected"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_law_is_seen_broken(law, name, source, expected):
    assert expected in LAWS[law](name, ast.parse(source))


@pytest.mark.parametrize(("law", "name", "source"), GOOD, ids=[f"{g[0]}-{i}" for i, g in enumerate(GOOD)])
def test_law_lets_good_source_pass(law, name, source):
    assert LAWS[law](name, ast.parse(source)) == []


def test_every_law_has_a_bad_example():
    assert {example[0] for example in BAD} == set(LAWS)
