"""What users can call is what api.txt records, so that every change of it shows in a review.

After a change that is meant: ``python tests/test_api.py`` writes the record anew.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

RECORD = Path(__file__).with_name("api.txt")
PACKAGE = Path(__file__).resolve().parents[1] / "skvae"
COMMAND = "python tests/test_api.py"


def surface() -> str:
    """Public names with signatures, defaults and documented attributes, in alphabetical order."""
    modules = ["skvae", *(f"skvae.{path.stem}" for path in sorted(PACKAGE.glob("[!_]*")) if path.name != "py.typed")]
    return "\n".join(line for name in modules for line in module_lines(name)) + "\n"


def module_lines(name: str) -> Iterator[str]:
    """One block for each public thing that a module names in ``__all__``; what a parent module names stays there."""
    module = importlib.import_module(name)
    for public in sorted(module.__all__):
        thing, full = getattr(module, public), f"{name}.{public}"
        if inspect.isclass(thing):
            yield from class_lines(full, thing) if is_home(name, public) else [f"class {full}"]
        elif inspect.isfunction(thing):
            yield f"{full}{signature(thing)}"
        else:
            yield f"{full}: {type(thing).__name__}{sorted(thing) if isinstance(thing, dict) else ''}"


def is_home(module: str, public: str) -> bool:
    """Whether a class is described here: the estimators are in ``skvae``, whatever module holds them."""
    return module == "skvae" or public not in importlib.import_module("skvae").__all__


def class_lines(full: str, cls: type) -> Iterator[str]:
    # The helpers of scikit-learn's own bases change with its version.
    bases = [base.__name__ for base in cls.__mro__[1:-1] if base.__module__ in {"sklearn.base", "builtins"}]
    bases = [base for base in bases if not base.startswith("_")]
    takes = signature(cls.__init__) if is_ours(cls.__init__) else "(...)"
    yield f"class {full}{takes}"
    if bases:
        yield f"    is a: {', '.join(sorted(bases))}"
    for name in sorted(dir(cls)):
        static = inspect.getattr_static(cls, name)
        plain = getattr(static, "fget", None) or getattr(static, "__func__", static)
        if name.startswith("_") or not is_ours(plain):
            continue
        if isinstance(static, property):
            yield f"    .{name}: property"
        elif inspect.isfunction(plain):
            kind = "classmethod " if isinstance(static, classmethod) else ""
            yield f"    {kind}.{name}{signature(plain)}"
    yield from (f"    {name}: attribute" for name in sorted(documented_attributes(cls)))


def is_ours(thing: object) -> bool:
    """Defined here: what scikit-learn's mixins bring along changes with its version."""
    return (getattr(inspect.unwrap(thing), "__module__", None) or "").split(".")[0] == "skvae"


def signature(function: object) -> str:
    """Names and defaults, one parameter a line where they are many; annotations are for readers of the source."""
    parameters = inspect.signature(function).parameters.values()
    bare = [
        parameter.replace(annotation=parameter.empty)
        for parameter in parameters
        if parameter.name not in {"self", "cls"}
    ]
    text = str(inspect.Signature(bare))
    if len(text) <= 100:
        return text
    return "(\n" + "".join(f"        {line}\n" for line in starred(bare)) + "    )"


def starred(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """The parameters, with the star before the first that is keyword-only."""
    seen = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not seen:
            seen = True
            yield "*,"
        yield f"{parameter},"


def documented_attributes(cls: type) -> list[str]:
    """Names of the section Attributes; another test compares them with what ``fit`` sets."""
    section = re.search(
        r"^Attributes\n-+\n(.*?)(?:\n\n\w|\Z)", inspect.getdoc(cls) or "", flags=re.DOTALL | re.MULTILINE
    )
    heads = re.findall(r"^([\w, ]+) : ", section.group(1), flags=re.MULTILINE) if section else []
    return [name.strip() for head in heads for name in head.split(",")]


def changes(recorded: str, found: str) -> str:
    """What differs, as a review would show it; empty where nothing does."""
    lines = difflib.unified_diff(recorded.splitlines(), found.splitlines(), "recorded", "found", lineterm="", n=1)
    return "\n".join(lines)


def test_interface_is_the_recorded_one():
    difference = changes(RECORD.read_text(encoding="utf-8"), surface())
    assert not difference, f"\n{difference}\n\nIf this is meant, run `{COMMAND}` and say it in CHANGELOG.md."


def test_record_holds_what_a_user_relies_on():
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    for line in (
        "class skvae.VAETransformer(",
        "        n_components='auto',",
        "    .fit(X, y=None, sample_weight=None)",
        "    offset_: attribute",
        "skvae.onnx.to_onnx(estimator, *, dtype='float32')",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ("a(x=1)\nb(y)\n", ""),
        ("a(x=2)\nb(y)\n", "--- recorded\n+++ found\n@@ -1,2 +1,2 @@\n-a(x=1)\n+a(x=2)\n b(y)"),
        ("a(x=1)\n", "--- recorded\n+++ found\n@@ -1,2 +1 @@\n a(x=1)\n-b(y)"),
    ],
    ids=["same", "other default", "gone"],
)
def test_changes_show_what_differs(changed, shown):
    assert changes("a(x=1)\nb(y)\n", changed) == shown


if __name__ == "__main__":
    RECORD.write_text(surface(), encoding="utf-8")
    print(f"Wrote {RECORD}.")
