"""Build hook: compile the native training step where there is a C compiler, and leave it out where there is none.

The objects have no Python in them, so that one wheel per platform serves every Python. ``CC`` names the compiler;
``SKVAE_NATIVE=0`` leaves the objects out.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

FOLDER = Path("skvae", "_training")
FLAGS = ["-shared", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
# Name of each object, and the instruction set that it may use, by the machine's own word for itself.
X86 = {"avx2": AVX2, "avx512": AVX512}
OBJECTS = {"x86_64": X86, "amd64": X86, "aarch64": {"neon": []}, "arm64": {"neon": []}}
SECONDS = 120  # a compiler that takes longer is taken for one that does not work


def compiler() -> list[str]:
    """The command of the C compiler; empty if there is none, or the user wants none."""
    if os.environ.get("SKVAE_NATIVE") == "0":
        return []
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    # On Windows, where no compiler of this kind is at home, only by CC.
    names = () if sys.platform == "win32" else ("cc", "gcc", "clang")
    return next(([name] for name in names if shutil.which(name)), [])


def digest(source: Path) -> str:
    """What `digest` of native.py makes of the source and its headers: an object of another text is refused."""
    texts = [path.read_bytes().replace(b"\r\n", b"\n") for path in (source, *sorted(source.parent.glob("*.h")))]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


def compile_objects(source: Path, folder: Path) -> list[Path]:
    """Write the objects for this machine; none of them unless all can be made.

    They appear whole, as another process may be about to load one.
    """
    command = compiler()
    machine = platform.machine().lower() if sys.maxsize > 2**32 else ""
    objects = OBJECTS.get(machine, {}) if command else {}
    general = [*FLAGS, f'-DSOURCE="{digest(source)}"', *([] if sys.platform == "win32" else ["-fPIC"])]
    libraries = [] if sys.platform == "win32" else ["-lm"]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="_native_") as scratch:
            paths = [Path(scratch, f"_native_{name}.so") for name in objects]
            for path, flags in zip(paths, objects.values(), strict=True):
                whole = [*command, *general, *flags, str(source), "-o", str(path), *libraries]
                subprocess.run(whole, check=True, capture_output=True, timeout=SECONDS)
            return [path.replace(folder / path.name) for path in paths]
    except (OSError, subprocess.SubprocessError):
        return []


def platform_tag() -> str:
    """The wheel's platform: the interpreter's own where pip takes it, else the first that pip takes."""
    accepted = list(platform_tags())
    own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return own if own in accepted and "universal" not in own else accepted[0]


class NativeHook(BuildHookInterface):
    """Put the objects into the wheel, or beside the sources of an editable install."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Compile; without objects the wheel is the one for any platform."""
        beside = Path(self.root) / FOLDER
        self._scratch = None if version == "editable" else tempfile.mkdtemp()
        if not self._scratch:
            for path in beside.glob("_native_*.so"):  # of an earlier install
                path.unlink(missing_ok=True)
        made = compile_objects(beside / "native.c", Path(self._scratch or beside))
        if not made:
            self.app.display_info("skvae is built without its native training step: no C compiler made it.")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        if self._scratch:
            build_data["force_include"] |= {str(path): str(FOLDER / path.name) for path in made}

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        """Remove what was compiled for the wheel."""
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
