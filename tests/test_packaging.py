"""The lowest versions that the metadata allows are what the floor job installs; the import stays light."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def floors(requirements: list[str]) -> dict[str, str]:
    """Package -> version of ``name>=version``; anything looser or tighter has no floor and fails here."""
    return dict(re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement).groups() for requirement in requirements)


def pins(path: Path) -> dict[str, str]:
    """Package -> version of a file of ``name==version`` lines."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def release(version: str) -> tuple[int, ...]:
    """Numbers to compare: 1.6 and 1.6.0 are the same release."""
    numbers = [int(number) for number in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def required(*, without: str = "") -> dict[str, str]:
    """All floors, those of one extra aside."""
    extras = [requirements for name, requirements in EXTRAS.items() if name != without]
    return floors(PROJECT["dependencies"]) | {k: v for extra in extras for k, v in floors(extra).items()}


def test_floor_job_installs_the_floors():
    """Those of the site aside: it is built with the pinned versions only, and no user needs it."""
    installed = pins(ROOT / ".ci" / "floors.txt")
    floor = required(without="docs")
    assert {name: release(installed.get(name, "0")) for name in floor} == {
        name: release(version) for name, version in floor.items()
    }


def test_constraints_pin_every_requirement_above_its_floor():
    pinned = pins(ROOT / "constraints.txt")
    assert [
        name for name, floor in required().items() if name not in pinned or release(pinned[name]) < release(floor)
    ] == []


def test_extras_agree_on_floors():
    """One package, one floor, whichever extra asks for it."""
    every = [item for extra in EXTRAS.values() for item in floors(extra).items()]
    assert len(dict(every)) == len(set(every))


@pytest.mark.parametrize(
    ("left", "right", "same"), [("1.6", "1.6.0", True), ("2.0.0", "2", True), ("1.6.1", "1.6", False)]
)
def test_release_compares_numbers(left, right, same):
    assert (release(left) == release(right)) is same


@pytest.mark.slow
def test_import_loads_no_optional_package():
    """Nor the heavy parts of scikit-learn: the import has to stay cheap beside torch's own."""
    code = "import sys, torch, sklearn.base; before = set(sys.modules); import skvae; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("matplotlib", "onnx", "skops", "pandas", "sklearn.mixture", "sklearn.decomposition", "sklearn.cluster")
    assert not [name for name in loaded if name.startswith(heavy)]
    assert "skvae.autoencoder" in loaded
