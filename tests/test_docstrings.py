"""Every public docstring says what the signature says: same parameters, same order, same defaults."""

import ast
import importlib
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "skvae"
PUBLIC = [path.stem for path in sorted(PACKAGE.glob("[!_]*")) if path.name != "py.typed"]
ESTIMATORS = ["AutoencoderTransformer", "VAETransformer"]
MISSING = inspect.Parameter.empty


class Entry(NamedTuple):
    """One ``name : type, default=value`` of a docstring."""

    name: str
    type: str
    default: object  # MISSING where none is written


# --- A small reader of numpydoc -------------------------------------------------------------------------------------


def sections(docstring: str) -> dict[str, list[str]]:
    """Title -> lines of each section; the summary and what follows it stand under ''."""
    found: dict[str, list[str]] = {"": []}
    lines = inspect.cleandoc(docstring).splitlines()
    title = ""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and re.fullmatch(r"-{3,}", below):
            title = line
            found[title] = []
        elif not re.fullmatch(r"-{3,}", line):
            found[title].append(line)
    return found


def entries(lines: list[str]) -> list[Entry]:
    """The entries of a Parameters or Attributes section; a backslash continues a type on the next line."""
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    heads = [line for line in text.splitlines() if line and not line[0].isspace()]
    found = []
    for head in heads:
        names, _, kind = head.partition(" : ")
        written = re.search(r",\s*default=(.*)$", kind)
        default = literal(written.group(1)) if written else MISSING
        found += [Entry(name.strip(), kind.strip(), default) for name in names.split(",")]
    return found


def literal(text: str) -> object:
    """The value that the text writes down, or the text where it is no literal (``default=np.nan``)."""
    try:
        return ast.literal_eval(text.strip().strip("`"))
    except (ValueError, SyntaxError):
        return text.strip()


# --- What may be wrong with one docstring ---------------------------------------------------------------------------


def signature(function: Callable) -> dict[str, object]:
    """Parameter -> default, without ``self`` and ``cls``; stars are kept as numpydoc writes them."""
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return {
        star.get(p.kind, "") + name: p.default
        for name, p in inspect.signature(function).parameters.items()
        if name not in {"self", "cls"}
    }


def returns_something(function: Callable) -> bool:
    """Whether the body has a ``return`` with a value, those of nested functions aside."""
    queue = list(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            queue += ast.iter_child_nodes(node)
    return False


def same_default(written: object, actual: object) -> bool:
    """Equal value of the same type: ``1`` is not ``1.0`` and not ``True``."""
    if isinstance(written, str) and not isinstance(actual, str):
        return written == repr(actual)
    return type(written) is type(actual) and written == actual


def parameter_problems(documented: list[Entry], actual: dict[str, object]) -> list[str]:
    """Where a Parameters section departs from the signature."""
    names = [entry.name for entry in documented]
    if names != list(actual):
        return [f"documents {names}, takes {list(actual)}"]
    return [
        f"default of {entry.name}: documents {show(entry.default)}, takes {show(actual[entry.name])}"
        for entry in documented
        if not (entry.type == "Ignored" or same_default(entry.default, actual[entry.name]))
    ]


def show(default: object) -> str:
    return "none" if default is MISSING else repr(default)


def problems(docstring: str | None, function: Callable | None, *, needs_returns: bool) -> list[str]:
    """All that is wrong; ``function`` is None for what takes no arguments (a property)."""
    if not docstring:
        return ["no docstring"]
    found = sections(docstring)
    summary = found[""][0] if found[""] else ""
    broken = [] if summary.endswith(".") else [f"the first line is no sentence: {summary!r}"]
    if function is not None:
        broken += parameter_problems(entries(found.get("Parameters", [])), signature(function))
    if needs_returns and not found.keys() & {"Returns", "Yields"}:
        broken.append("no Returns section")
    return broken


def function_problems(function: Callable) -> list[str]:
    return problems(inspect.getdoc(function), function, needs_returns=returns_something(function))


def class_problems(cls: type) -> list[str]:
    """The class itself: its constructor's parameters are documented under the class, as scikit-learn does."""
    own = "__init__" in vars(cls) or any("__init__" in vars(base) for base in cls.__mro__[1:-1] if is_ours(base))
    named_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
    return problems(inspect.getdoc(cls), cls.__init__ if own and not named_tuple else None, needs_returns=False)


# --- What there is to check -----------------------------------------------------------------------------------------


def is_ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "skvae"


def public_methods(cls: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties that this package defines, inherited ones too."""
    for name in sorted(dir(cls)):
        attribute = inspect.getattr_static(cls, name)
        plain = getattr(attribute, "fget", None) or getattr(attribute, "__func__", attribute)
        if not name.startswith("_") and inspect.isfunction(inspect.unwrap(plain)) and is_ours(plain):
            yield name, attribute


def member_problems(cls: type) -> list[str]:
    broken = []
    for name, attribute in public_methods(cls):
        if isinstance(attribute, property):
            found = problems(inspect.getdoc(attribute), None, needs_returns=False)
        else:
            found = function_problems(getattr(attribute, "__func__", attribute))
        broken += [f"{cls.__name__}.{name}: {problem}" for problem in found]
    return broken


def module_problems(module: object) -> list[str]:
    broken = []
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing):
            broken += [f"{name}: {problem}" for problem in class_problems(thing)] + member_problems(thing)
        elif inspect.isfunction(thing):
            broken += [f"{name}: {problem}" for problem in function_problems(thing)]
    return broken


def test_there_are_public_modules():
    assert set(PUBLIC) >= {"autoencoder", "vae", "likelihoods"}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings(name):
    module = importlib.import_module(f"skvae.{name}")
    assert module.__doc__
    assert module_problems(module) == []


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_is_documented_for_a_user(name):
    """A purpose, an example that pytest runs, and every verb of the class."""
    cls = getattr(importlib.import_module("skvae"), name)
    found = sections(inspect.getdoc(cls))
    assert {"Parameters", "Attributes", "Examples"} <= found.keys()
    assert ">>> " in "\n".join(found["Examples"])
    assert {verb for verb, _ in public_methods(cls)} >= {
        "fit",
        "transform",
        "inverse_transform",
        "score_samples",
        "predict",
    }


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fitted_attributes_are_documented(name, seed):
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning

    cls = getattr(importlib.import_module("skvae"), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # two epochs are enough to see the attributes
        model = cls(n_components=2, max_iter=2, random_state=seed).fit(np.random.default_rng(seed).normal(size=(40, 3)))
    fitted = {key for key in vars(model) if key.endswith("_") and not key.startswith("_")}
    documented = {entry.name for entry in entries(sections(inspect.getdoc(cls))["Attributes"])}
    assert fitted
    assert sorted(fitted - documented) == []


# --- The reader sees what it should ---------------------------------------------------------------------------------


def good(x, y=None, *, scale=1.0, kind="auto", sizes=(8, 4), limit=None):
    """Do one thing.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
        Rows, as in this default=3 that is no default.
    y : Ignored
        Not used.
    scale : float, default=1.0
        In nats.
    kind : {"auto", "a"}, \\
            default="auto"
        Either.
    sizes, limit : tuple or None, default=(8, 4)
        Two at once.

    Returns
    -------
    x : ndarray
    """
    return x


def undocumented(x):
    return x


def wrong_order(a, b):
    """Do one thing.

    Parameters
    ----------
    b : int
    a : int
    """


def wrong_default(a=1.0, b=2, c=3):
    """Do one thing.

    Parameters
    ----------
    a : float, default=1
    b : int, default=3
    c : int
    """


def no_returns(a):
    """Do one thing

    Parameters
    ----------
    a : int
    """
    return a


def test_reader_splits_sections_and_entries():
    found = sections(good.__doc__)
    assert list(found) == ["", "Parameters", "Returns"]
    assert entries(found["Parameters"]) == [
        Entry("x", "ndarray of shape (n_samples,)", MISSING),
        Entry("y", "Ignored", MISSING),
        Entry("scale", "float, default=1.0", 1.0),
        Entry("kind", '{"auto", "a"},  default="auto"', "auto"),
        Entry("sizes", "tuple or None, default=(8, 4)", (8, 4)),
        Entry("limit", "tuple or None, default=(8, 4)", (8, 4)),
    ]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (good, ["default of limit: documents (8, 4), takes None"]),
        (undocumented, ["no docstring"]),
        (wrong_order, ["documents ['b', 'a'], takes ['a', 'b']"]),
        (
            wrong_default,
            [
                "default of a: documents 1, takes 1.0",
                "default of b: documents 3, takes 2",
                "default of c: documents none, takes 3",
            ],
        ),
        (no_returns, ["the first line is no sentence: 'Do one thing'", "no Returns section"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_reader_finds_problems(function, expected):
    assert function_problems(function) == expected
