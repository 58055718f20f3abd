"""What does the import cost beyond torch and scikit-learn's base, in time, memory and modules?"""

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial

import _common as common

CODE = """
import resource, sys, time
import torch, sklearn.base
started, before, names = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, set(sys.modules)
from skvae import AutoencoderTransformer
print(time.process_time() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
new = set(sys.modules) - names
print(len(new))
print(*({"matplotlib", "onnx", "skops", "pandas", "dask"} & new))
"""


def main() -> None:
    arguments = common.parse(__doc__)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as compiled:
        run = partial(subprocess.run, [sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        environment["PYTHONPYCACHEPREFIX"] = compiled
        runs = [run(env=environment).stdout.splitlines() for _ in range(arguments.repeats + 1)]
    runs = runs[1:]  # the first one compiles, as an installation does
    seconds, mib = ([float(run[0].split()[i]) for run in runs] for i in (0, 1))
    row = {"import": "from skvae import AutoencoderTransformer", "CPU s": statistics.median(seconds)}
    row |= {"MiB": statistics.median(mib), "modules": int(runs[0][1]), "optional ones": runs[0][2] or "none"}
    common.save("start", arguments, [row], repeats=arguments.repeats)


if __name__ == "__main__":
    main()
