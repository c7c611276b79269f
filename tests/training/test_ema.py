from collections.abc import Callable
from pathlib import Path

import torch

from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.folder import RunFolder

Cli = Callable[..., int]


def test_the_average_follows_its_formula_over_optimiser_steps(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    """decay min(cap, (1 + n) / (10 + n)) after optimiser step n, with two micro-batches a step."""
    assert run_cli(*tiny_run, "name=run", "ema_decay=0.15", "checkpoint.keep_every_n_steps=1") == 0
    folder = RunFolder(tmp_path / "runs" / "run").checkpoint.parent
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 5):
        raw = load_student(folder / f"step_{step}.ckpt", weights="raw").state_dict()
        n = step - 1
        decay = 0.0 if n == 0 else min(0.15, (1 + n) / (10 + n))
        expected = {
            name: decay * expected.get(name, tensor) + (1 - decay) * tensor
            for name, tensor in raw.items()
        }
        found = load_student(folder / f"step_{step}.ckpt").state_dict()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(raw[name], found[name]) for name in raw)


def test_validation_leaves_the_raw_weights(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path
) -> None:
    assert run_cli(*tiny_run, "name=with", "trainer.validate_every_n_steps=1") == 0
    assert run_cli(*tiny_run, "name=without", "trainer.validate_every_n_steps=100") == 0
    states = [
        read_checkpoint(RunFolder(tmp_path / "runs" / name).checkpoint)["state_dict"]
        for name in ("with", "without")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
