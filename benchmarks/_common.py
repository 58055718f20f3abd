"""What the benchmarks share: data, clocks, the machine's matrix rate, tables, results files."""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def parse(description: str, **extra: dict[str, Any]) -> argparse.Namespace:
    """Read the command line and pin the process to one thread of one core."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", default="", help="comma-separated names of the cells to run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    for name, options in extra.items():
        parser.add_argument(f"--{name}", **options)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    return arguments


def asked_for(arguments: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of the names that ``--only`` holds, all where it is empty; a comma before a blank belongs to a name."""
    only = re.split(",(?! )", arguments.only)
    return [name for name in names if not arguments.only or name in only]


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one call; neighbours on a shared machine change them less than the wall clock."""
    started = time.process_time()
    work()
    return time.process_time() - started


def interleaved(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each contender, taken in turn so that a slow spell hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            seconds[name].append(cpu_seconds(work))
    return seconds


def gemm_rate(size: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations per second of one float32 product of square matrices: the rate that shares refer to."""
    a, b, out = (torch.randn(size, size) for _ in range(3))
    torch.mm(a, b, out=out)
    return 2.0 * size**3 / min(cpu_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))


def layer_flops(widths: list[int]) -> float:
    """Floating-point operations of one forward pass of one row through dense layers."""
    return 2.0 * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def curved(n_samples: int, n_features: int, seed: int = 0) -> np.ndarray:
    """A table near a curved surface of eight dimensions, in standard units."""
    rng = np.random.default_rng(seed)
    hidden = np.tanh(rng.normal(size=(n_samples, 8)) @ rng.normal(size=(8, 32)))
    X = hidden @ rng.normal(size=(32, n_features)) / 4 + 0.1 * rng.normal(size=(n_samples, n_features))
    return ((X - X.mean(0)) / X.std(0)).astype(np.float32)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    versions = {name: metadata.version(name) for name in ("torch", "scikit-learn", "numpy")}
    for name in ("pyod", "skorch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", *_told()]),
        **versions,
    }


def _told() -> list[str]:
    """The command line, with a folder of data by its name alone and without the place of the results."""
    words = list(sys.argv)
    if "--output" in words:
        del words[words.index("--output") : words.index("--output") + 2]
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; numbers with three digits."""
    columns = list(rows[0])
    cells = [columns, ["---"] * len(columns), *[[_shown(row.get(column, "")) for column in columns] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(name: str, arguments: argparse.Namespace, rows: list[dict[str, Any]], **extra: Any) -> None:
    """Print the table and write it, with the machine, as JSON."""
    print(table(rows))
    arguments.output.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), **extra, "rows": rows}
    (arguments.output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
