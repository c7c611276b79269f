"""What prompt-routed pruning adds and saves, in ratios: the gated forward against the plain one,
narrow experts against their teacher, routing, and a mixture against its experts run by hand.
`make bench-aptp`.

Two things that are compared take turns in one process; what is printed is the median of the turns'
ratios, with its quartiles.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Final

import torch
from diffusers import UNet2DConditionModel

from bench.evaluation import in_turns
from bench.mixture import EXPERTS, routing, serving
from bksdm.evaluation.report import table
from bksdm.export.pipeline import best_device, load_pipeline
from bksdm.gates.attach import POSITIONS, gated
from bksdm.gates.budget import Budget
from bksdm.models.cost import parameter_count
from bksdm.models.source import embedded_folder
from bksdm.surgery.narrow import narrow
from bksdm.surgery.sites import Sites, prunable_sites
from bksdm.surgery.width import WidthPlan, aligned, gates_of, plan_of

KEPT: Final = (0.8, 0.6, 0.4)  # shares of units


def random_plan(sites: Sites, share: float, *, seed: int = 0) -> WidthPlan:
    """Keeps that share of each site's units."""
    rng, gates = torch.Generator().manual_seed(seed), torch.ones(sites.gates)
    for site in sites.width:
        gone = torch.randperm(site.units, generator=rng)[max(1, round(share * site.units)) :]
        gates[sites.slices[site.name].start + gone] = 0
    return plan_of(gates, sites)


def forward(unet: UNet2DConditionModel, rows: int) -> Callable[[], None]:
    """A call of a U-Net on so many rows."""
    rng, config = torch.Generator().manual_seed(0), unet.config
    latents = torch.randn(
        rows, config.in_channels, config.sample_size, config.sample_size, generator=rng
    ).to(unet.device)
    text = torch.randn(rows, 20, config.cross_attention_dim, generator=rng).to(unet.device)
    at = torch.tensor(500, device=unet.device)

    def call() -> None:
        with torch.no_grad():
            unet(latents, at, text)
        if unet.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def rate(call: Callable[[], None], *, calls: int) -> float:
    """Calls a second."""
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return calls / (time.perf_counter() - begin)


def gated_forward(unet: UNet2DConditionModel, *, rows: int, turns: int) -> str:
    """Per-sample gates against none: times, so a ratio above 1 is what gates add."""
    sites, call = prunable_sites(unet), forward(unet, rows)
    values = torch.rand(rows, sites.gates, device=unet.device)
    lines = []
    for position in POSITIONS:

        def ours(position: str = position) -> float:
            with gated(unet, sites, values, position=position):  # type: ignore[arg-type]
                return 1 / rate(call, calls=4)

        row = in_turns(ours, lambda: 1 / rate(call, calls=4), turns=turns)
        lines.append([f"gates at {position}, batch {rows}", *row])
    return table(lines, header=["s a forward", "gated", "plain", "ratio"])


def narrow_forward(unet: UNet2DConditionModel, *, rows: int, turns: int) -> str:
    """Narrow experts beside their teacher, with and without aligned channels."""
    sites = prunable_sites(unet)
    budget = Budget.of(dict(unet.config), sites, unet.config.sample_size, tokens=20)
    call, lines = forward(unet, rows), []
    for share in KEPT:
        plan = random_plan(sites, share)
        for name, each in (("", plan), (", aligned to 8", aligned(plan, sites, 8))):
            expert = narrow(unet, each)
            small = forward(expert, rows)
            times = in_turns(
                lambda small=small: 1 / rate(small, calls=4),  # type: ignore[misc]
                lambda: 1 / rate(call, calls=4),
                turns=turns,
            )
            macs = float(budget.macs(gates_of(each, sites)[None])) / budget.total
            size = parameter_count(expert) / parameter_count(unet)
            lines.append([f"{share:.0%} of units{name}", *times, f"{macs:.3f}", f"{size:.3f}"])
    return table(lines, header=["s a forward", "narrow", "teacher", "ratio", "MACs", "parameters"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="of the mixture's pictures")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    pipeline = load_pipeline(embedded_folder("shapes")).to(best_device())
    unet = pipeline.unet.eval()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {pipeline.device}\n")
    print(gated_forward(unet, rows=arguments.batch, turns=arguments.turns), flush=True)
    print(f"\n{narrow_forward(unet, rows=arguments.batch, turns=arguments.turns)}", flush=True)
    print(f"\n{routing(unet, prompts=10_000, turns=arguments.turns)}", flush=True)
    sites = prunable_sites(unet)
    experts = [narrow(unet, random_plan(sites, 0.6, seed=seed)).eval() for seed in range(EXPERTS)]
    told = serving(
        pipeline, experts, batch=arguments.batch, steps=arguments.steps, turns=arguments.turns
    )
    print(f"\n{told}")


if __name__ == "__main__":
    main()
