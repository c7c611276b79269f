"""Execute the notebooks, or strip what execution leaves in them.

`make notebooks` runs every notebook on a kernel of this very interpreter, writes the executed
copies to outputs/notebooks, and fails if a cell does; the sources are never touched.
`python -m scripts.notebooks --strip` takes outputs, execution counts and an editor's metadata out
of the sources. Names of notebooks or parts of them choose some: `python -m scripts.notebooks 02`.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "notebooks"
EXECUTED = ROOT / "outputs" / "notebooks"
CELL_SECONDS = 1800  # a cell that takes longer hangs
START_SECONDS = 180  # the same of a kernel's start
# All of a notebook's metadata: everything else that editors write differs by machine.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisPython(KernelSpecManager):
    """Knows one kernel, whatever else the machine has registered: this interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The same for every name."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


@dataclass(frozen=True)
class Outcome:
    """How a notebook went.

    Attributes:
        name: of its file.
        seconds: that it took.
        fault: the cell that failed and its error's last line; empty if all is well.
    """

    name: str
    seconds: float
    fault: str


def sources(wanted: list[str]) -> list[Path]:
    """The notebooks in their order; with `wanted`, those whose names contain one of these."""
    found = sorted(SOURCES.glob("*.ipynb"))
    return [path for path in found if not wanted or any(part in path.name for part in wanted)]


def stripped(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is committed."""
    result = nbformat.from_dict(notebook | {"metadata": METADATA})
    for cell in result.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return result


def text(notebook: NotebookNode) -> str:
    """The file of a notebook."""
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)) + "\n"


def read(path: Path) -> NotebookNode:
    """The notebook in a file."""
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)


def environment(*, jobs: int) -> dict[str, str]:
    """For a kernel: this environment's `bksdm` comes first, nothing asks the network, and kernels
    that run beside each other share the cores. Threads that wait for each other on cores which
    somebody else uses are very slow.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return {
        "HF_HUB_OFFLINE": "1",
        # As `bksdm` has it; and bars that move are no text to read afterwards.
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",
        **os.environ,
        # Whatever is wanted for one process: two of two threads on two cores are many times slower.
        "OMP_NUM_THREADS": str(threads),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def execute(path: Path, kernel_environment: Mapping[str, str]) -> Outcome:
    """Run a notebook and keep the executed copy, also of one that fails."""
    begin, notebook, fault = time.perf_counter(), read(path), ""
    # Sockets in a folder of our own, not ports that everybody on the machine can reach.
    with tempfile.TemporaryDirectory(prefix="bksdm-kernel-") as sockets:
        kernel = AsyncKernelManager(
            kernel_spec_manager=ThisPython(), transport="ipc", ip=f"{sockets}/kernel"
        )
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=CELL_SECONDS,
            startup_timeout=START_SECONDS,
            coalesce_streams=True,
            resources={"metadata": {"path": str(SOURCES)}},
        )
        try:
            client.execute(env=dict(kernel_environment))
        except (CellExecutionError, CellControlSignal, RuntimeError) as error:  # of a kernel: last
            told = f"{type(error).__name__}: {_last_line(str(error))}"
            fault = " | ".join(_faults(notebook)) or told
        finally:
            # The client leaves a manager that it was given alone. Asked, not killed, so that the
            # notebook's working folder goes with the kernel.
            run_sync(kernel.shutdown_kernel)()
    EXECUTED.mkdir(parents=True, exist_ok=True)
    (EXECUTED / path.name).write_text(text(notebook), encoding="utf-8")
    return Outcome(path.name, time.perf_counter() - begin, fault)


def _faults(notebook: NotebookNode) -> Iterator[str]:
    """Of cells that failed: which, the error, and what a command in it said last."""
    for number, cell in enumerate(notebook.cells):
        outputs = cell.get("outputs", [])
        for error in (each for each in outputs if each.output_type == "error"):
            said = "".join(each.text for each in outputs if each.get("name") == "stderr")
            told = f"{error.ename}: {_last_line(error.evalue)}"
            yield f"cell {number} ({cell.id}): {_last_line(said) or told}"


def _last_line(words: str) -> str:
    return next((line for line in reversed(words.splitlines()) if line.strip()), "")


def run_all(paths: list[Path], *, jobs: int) -> int:
    """Execute them, `jobs` at a time; how many failed."""
    begin, own = time.perf_counter(), environment(jobs=jobs)
    failed = 0
    with ProcessPoolExecutor(jobs) as pool:
        # The last ones take longest, so they begin first: none is left alone in the end.
        begun = [pool.submit(execute, path, own) for path in reversed(paths)]
        for outcome in (future.result() for future in as_completed(begun)):
            failed += bool(outcome.fault)
            print(f"{outcome.seconds:6.0f} s  {outcome.name}  {outcome.fault or 'ok'}", flush=True)
    print(f"{time.perf_counter() - begin:6.0f} s  in all, {jobs} at a time; read {EXECUTED}")
    return failed


def main() -> int:
    """Exit code 1 if a notebook fails, 2 if there is none of that name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names; none: all")
    parser.add_argument("--strip", action="store_true", help="strip the sources instead")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N")
    options = parser.parse_args()
    paths = sources(options.names)
    if not paths:
        print(f"no notebook in {SOURCES} is called {' or '.join(options.names)}", file=sys.stderr)
        return 2
    if not options.strip:
        return int(bool(run_all(paths, jobs=max(1, min(options.jobs, len(paths))))))
    for path in paths:
        path.write_text(text(stripped(read(path))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
