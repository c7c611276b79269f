"""Prove that a refactor changes no number: ten training steps on the embedded world against the
recorded losses.

`make same-loss` compares; `make same-loss ARGS=--record` writes scripts/same_loss.json anew, for a
change that is meant to change numbers (say so in CHANGELOG).
"""

import csv
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-4  # relative; other CPUs round otherwise
METHODS = ("balanced", "bk_sdm")


def losses(method: str) -> list[dict[str, float]]:
    """The loss terms of ten steps, by `bksdm train` itself."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "bksdm.cli.main",
            "train",
            f"method={method}",
            f"runs_dir={folder}",
            "name=run",
            "trainer.max_steps=10",
            "trainer.log_every_n_steps=1",
            "trainer.validate_every_n_steps=10",
            "samples.every_n_steps=0",
            "protocol=none",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with (Path(folder) / "run" / "metrics.csv").open(newline="") as file:
            return [
                {
                    name: float(value)
                    for name, value in row.items()
                    if name.startswith("train/") and value
                }
                for row in csv.DictReader(file)
                if row["train/loss"]
            ]


def main() -> int:
    """Compare or record; exit code 1 if a loss differs."""
    found = {method: losses(method) for method in METHODS}
    if "--record" in sys.argv:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
        print(f"recorded {RECORD}")
        return 0
    wanted = json.loads(RECORD.read_text())
    different = [
        f"{method} step {step} {name}: {row[name]:.8g}, recorded {value:.8g}"
        for method in METHODS
        for step, (row, record) in enumerate(zip(found[method], wanted[method], strict=True))
        for name, value in record.items()
        if not math.isclose(row[name], value, rel_tol=TOLERANCE)
    ]
    print("\n".join(different) or f"same losses over 10 steps of {', '.join(METHODS)}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
