"""What the command costs before it does anything: CPU seconds of `core --help` and `core list`.

    python benchmarks/start.py [--repeats 9] [--packages 20]

Each line is the median over fresh processes, one thread each, user and system time of the child, beside the bare
interpreter and `import torch`. The fake third-party packages import torch in their `__init__`, so whoever imports a
package to list it pays for torch. Exit status 1 if `core list` needs 0.3 s of CPU or more, or if it or `core --help`
imports torch, numpy, a plugin or a third party's package.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 0.3
"""CPU seconds that `core list` may take"""
ROOT = Path(__file__).resolve().parent.parent
CORE = "import sys; from core.cli import main; sys.exit(main({words!r}))"
"""what the console script does"""
LOADED = """
import sys
from core.cli import main
assert main({words!r}) == 0
heavy = ("torch", "numpy", "plugins", "fake_")
print(*sorted(name for name in sys.modules if name.startswith(heavy) and "." not in name))
"""


def write_packages(folder: Path, count: int) -> None:
    """Distributions `fake-00`, ... below `folder`, each with one gate, each importing torch when it is imported."""
    for number in range(count):
        module = f"fake_{number:02d}"
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[core.manifest]\n{module} = {module}:registry.toml\n")
        (folder / module).mkdir()
        (folder / module / "__init__.py").write_text("import torch\n")
        row = f'[gate.{module}]\ntarget = "{module}.gates:Gate"\nsummary = "A gate of a third party."\n'
        (folder / module / "registry.toml").write_text(f"api = 1\n{row}")


def environment(cache: Path, *path: Path) -> dict[str, str]:
    """One thread, compiled files kept in `cache` as an installation keeps them, no settings of the user."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "PYTHON"))}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return (
        kept
        | threads
        | {
            "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
            "PYTHONPYCACHEPREFIX": str(cache),
            "CORE_CONFIG": os.devnull,
        }
    )


def run(code: str, env: dict[str, str], folder: Path) -> str:
    """Output of a fresh interpreter.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is printed.
    """
    done = subprocess.run([sys.executable, "-P", "-c", code], env=env, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def cost(code: str, env: dict[str, str], folder: Path) -> tuple[float, float]:
    """CPU seconds and wall seconds of one fresh interpreter."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(code, env, folder)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> int:
    """Measure, print a table, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="processes a line (9)")
    parser.add_argument("--packages", type=int, default=20, help="fake third-party packages (20)")
    said = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_packages(folder / "site", said.packages)
        alone, crowded = (environment(folder / "cache", *path) for path in ((), (folder / "site",)))
        listed = run(CORE.format(words=["list"]), crowded, folder)
        if listed.count("[fake-") != said.packages:
            failures.append(f"core list shows {listed.count('[fake-')} of {said.packages} packages")
        for words in (["list"], ["--help"]):
            *_, imported = run(LOADED.format(words=words), crowded, folder).splitlines()
            if imported:
                failures.append(f"core {words[0]} imports {imported}")
        lines = [("python -c pass", "pass", alone), ('python -c "import torch"', "import torch", alone)]
        for words in (["--help"], ["list"]):
            for count, env in ((0, alone), (said.packages, crowded)):
                lines.append((f"core {words[0]}, {count} packages", CORE.format(words=words), env))
        for _, code, env in lines:
            run(code, env, folder)  # compiles what is not compiled yet
        # Round by round, so that a machine that grows busy meets every line alike.
        rounds = [[cost(code, env, folder) for _, code, env in lines] for _ in range(said.repeats)]
        print(f"python {platform.python_version()}, {platform.machine()}, CPU seconds (user + system)")
        print(f"{'':28}{'median':>9}{'largest':>9}{'wall':>9}{'runs':>6}")
        for (label, *_), taken in zip(lines, zip(*rounds, strict=True), strict=True):
            cpu, wall = zip(*taken, strict=True)
            median = statistics.median(cpu)
            print(f"{label:28}{median:9.3f}{max(cpu):9.3f}{statistics.median(wall):9.3f}{len(cpu):6}")
            if label.startswith("core list") and median >= LIMIT:
                failures.append(f"{label}: {median:.3f} s of CPU, less than {LIMIT} s are allowed")
    for failure in failures:
        print(f"FAILED: {failure}")
    if not failures:
        print(f"core list stays below {LIMIT} s and imports neither torch nor numpy, no plugin and no third party")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
