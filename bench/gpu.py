"""What only a GPU at real size shows: the distillation step rung by rung, the reference recipe,
attention kernels, encoding, `bksdm train`, generation; then a larger embedded teacher in the time
that is left. `bench/gpu.sh` runs it with nothing but packages that lie there; docs/performance.md
says what is needed and what came out.

Each section is a process of its own, for so many seconds, and its table is printed as far as it
came; the next one begins in any case. Exit code 1 if something failed that should not have.

    bench/gpu.sh                          # all sections, 8 minutes, one GPU
    bench/gpu.sh --seconds 300 ladder     # some
    bench/gpu.sh --cpu                    # a dry run: every section on a toy, no figures
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

# Of the time; what one leaves is shared by those after it. First the three that have goals; what
# the first one compiles the others find in the compiler's cache.
SHARES: Final = {
    "trained": 0.38,
    "recipe": 0.16,
    "ladder": 0.22,
    "attention": 0.04,
    "serving": 0.08,
    "encoding": 0.04,
    "embedded": 0.08,
}
GRACE: Final = 20  # seconds beyond its own that a section has before it is killed


def main() -> int:
    """Run the sections."""
    begun, arguments = time.monotonic(), _arguments()
    if arguments.only:
        _section(arguments)
        return 0
    from bench.sections.section import read

    results = arguments.results or Path(tempfile.mkdtemp(prefix="bench-gpu-"))
    results.mkdir(parents=True, exist_ok=True)
    chosen = arguments.sections or [*SHARES]
    end, failed = begun + arguments.seconds, []
    print(_machine(cpu=arguments.cpu), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(chosen):
            file, begin = results / f"{name}.jsonl", time.monotonic()
            file.unlink(missing_ok=True)
            share = SHARES[name] / sum(SHARES[later] for later in chosen[number:])
            why = _run(arguments, name, file, Path(folder), seconds=share * (end - begin))
            written = read(file)
            failed += [f"{name}: {line}" for line in (*written.failed, *[why] * bool(why))]
            spent = time.monotonic() - begin
            print(f"\n== {name} ({spent:.0f} s) ==\n\n{written.text}", flush=True)
            if why:
                print(f"- {why}", flush=True)
    print(f"\nrows and logs: {results}")
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


def _run(
    arguments: argparse.Namespace, name: str, file: Path, folder: Path, *, seconds: float
) -> str:
    """One section in a process of its own; why it did not end by itself, or nothing."""
    if seconds < 1:
        return "not begun: no time is left"
    command = [sys.executable, "-P", "-m", "bench.gpu", "--only", name, "--results", str(file)]
    command += ["--folder", str(folder), *["--cpu"] * arguments.cpu]
    command += ["--until", f"{time.monotonic() + seconds:.1f}"]  # one clock for all processes
    log = file.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its loaders and compilers
            process.wait()
            return f"killed after {seconds + GRACE:.0f} s"
    return f"exit code {code}; its log ends:\n{_tail(log)}" if code else ""


def _tail(log: Path) -> str:
    return "\n".join(f"    {line[:200]}" for line in log.read_text().splitlines()[-15:])


def _section(arguments: argparse.Namespace) -> None:
    from bench.sections.section import Section
    from bench.sections.setting import REAL, TOY

    warnings.filterwarnings("ignore")
    setting = replace(TOY if arguments.cpu else REAL, folder=arguments.folder / "teacher")
    section: Any = importlib.import_module(f"bench.sections.{arguments.only}")
    section.measure(
        Section(
            file=arguments.results,
            folder=arguments.folder,
            setting=setting,
            seconds=arguments.until - time.monotonic(),
        )
    )


def _machine(*, cpu: bool) -> str:
    import torch

    if not cpu and not torch.cuda.is_available():
        sys.exit(f"bench.gpu: torch {torch.__version__} finds no GPU; --cpu makes a dry run")
    where = "a dry run on the CPU" if cpu else torch.cuda.get_device_name()
    day = time.strftime("%Y-%m-%d")
    return f"{where}, {os.cpu_count()} cores, torch {torch.__version__}, {day}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SHARES))
    parser.add_argument("--cpu", action="store_true", help="a dry run")
    parser.add_argument("--seconds", type=float, help="in all; 480, or 1800 of a dry run")
    parser.add_argument("--results", type=Path, help="folder of rows and logs")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (1800 if arguments.cpu else 480)
    unknown = set(arguments.sections) - set(SHARES)
    if unknown:
        parser.error(f"no section {sorted(unknown)}; expected some of {list(SHARES)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
