"""What is looked at when captions are routed: who gets what, and how hard it is."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bksdm.cli.expert import SAMPLES
from bksdm.cli.routed import Routed
from bksdm.data.captions import BAD, Captions
from bksdm.data.selection import Selection
from bksdm.evaluation.routing import told
from bksdm.evaluation.routing.analysis import Analysis, ExpertAnalysis, write_analysis
from bksdm.evaluation.routing.drift import Drift, drifts
from bksdm.evaluation.routing.hardness import (
    Hardness,
    RatedPrompt,
    denoising_losses,
    difficulties,
    hardness,
    kinds,
    timesteps_of,
)
from bksdm.evaluation.routing.heat import in_forward_order, kept_shares
from bksdm.evaluation.routing.words import word_lifts
from bksdm.export.narrow import PLAN, read_plan
from bksdm.export.pipeline import best_device
from bksdm.processes import this_process
from bksdm.training.checkpoint import load_router, read_checkpoint
from bksdm.training.folder import RunFolder

_RATED: Final = 256  # validation samples
_DRIFTING: Final = 1024  # training captions
_READ: Final = 200_000  # training captions whose words are counted

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Training captions: U different texts, the code of each, and how many samples have it."""

    texts: Sequence[str]
    routes: Rows
    counts: Rows


def analyse(folder: RunFolder, rest: Routed) -> str:
    """Look at a run that `write_routed` has just finished; returns what to tell."""
    found = json.loads(folder.routing.read_text())
    macs = [float(each["macs_share"]) for each in found["experts"]]
    captions = rest.captions
    some = np.unique(np.linspace(0, len(captions.texts) - 1, _READ).round().astype(np.int64))
    prompts = Prompts(
        [captions.texts[place] for place in some],
        _routes(folder, captions, found["experts"])[some],
        captions.counts[some],
    )
    rated, difficulty = _rated(rest, macs)
    read = zip(prompts.texts, prompts.routes.tolist(), prompts.counts.tolist(), strict=True)
    analysis = Analysis(
        mean=found["mean"],
        target=found["target"],
        counting=found["counting"],
        teacher=found["teacher"],
        sites=tuple(site.name for site in in_forward_order(rest.module.budget.sites)),
        experts=_experts(folder, rest, found["experts"], prompts),
        hardness=rated,
        kinds=kinds([(t, n, macs[code]) for t, code, n in read if code != BAD], difficulty),
        drift=_drift(folder, rest),
    )
    write_analysis(folder.analysis, analysis)
    return "\n".join([*told.lines(analysis), f"analysis: {folder.analysis}"])


def _routes(folder: RunFolder, captions: Captions, experts: Sequence[Mapping[str, Any]]) -> Rows:
    """Of each different caption its code, as `write_routed` has written it."""
    routes = np.full(len(captions.texts), BAD, dtype=np.int64)
    for each in experts:
        if each["folder"] is not None:
            mine = Selection.read(folder.path / each["folder"] / SAMPLES).samples
            routes[captions.of[mine]] = each["expert"]
    return routes


def _experts(
    folder: RunFolder, rest: Routed, experts: Sequence[Mapping[str, Any]], prompts: Prompts
) -> tuple[ExpertAnalysis, ...]:
    words = word_lifts(prompts.texts, prompts.routes, prompts.counts, experts=len(experts))
    names = ("expert", "share", "macs", "macs_share", "parameters", "modules_dropped")
    result = []
    for each, own in zip(experts, words, strict=True):
        kept: tuple[float, ...] = ()
        if each["folder"] is not None:
            plan = read_plan(folder.path / each["folder"] / PLAN)
            kept = kept_shares(plan, rest.module.budget.sites)
        values = {name: each[name] for name in names}
        result.append(ExpertAnalysis(**values, prompts=each["samples"], kept=kept, words=own))
    return tuple(result)


def _rated(rest: Routed, macs: Sequence[float]) -> tuple[Hardness, dict[str, float]]:
    """Validation prompts, how hard they are for the teacher, and which expert they get."""
    module, device = rest.module, best_device(this_process())
    teacher, diffusion = module.teacher, module.diffusion.to(device)
    teacher.to(device)

    def ask(noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        unet = teacher.unet
        answer: Tensor = unet(noisy.to(unet.dtype), timesteps, text.to(unet.dtype)).sample
        return answer

    captions: list[str] = []
    parts = []
    for batch in rest.data.some_validation(_RATED):
        captions += batch.captions
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            moments, text = module.encoded(batch.to(device))
            latents = teacher.scaled_latents(moments, noise=None).float()
            parts.append(denoising_losses(ask, diffusion, latents, text))
    losses = torch.cat(parts)
    difficulty = difficulties(captions, losses)
    routes = module.router.route(_embedded(rest, list(difficulty))).tolist()
    rated = [
        RatedPrompt(prompt=text, difficulty=value, expert=code, macs_share=macs[code])
        for (text, value), code in zip(difficulty.items(), routes, strict=True)
    ]
    times, means = timesteps_of(diffusion), losses.mean(0).tolist()
    return hardness(rated, timesteps=times, losses=means), difficulty


def _embedded(rest: Routed, captions: Sequence[str]) -> Tensor:
    return rest.module.encoder.embed(captions).to(rest.module.router.mean.device)


def _drift(folder: RunFolder, rest: Routed) -> tuple[Drift, ...]:
    """From each checkpoint that was kept to the next."""
    there = [*folder.checkpoints.glob("step_*.ckpt"), folder.checkpoint]
    routers = {}
    for path in filter(Path.is_file, there):
        router = deepcopy(rest.module.router)
        load_router(path, router)
        routers[int(read_checkpoint(path)["global_step"])] = router
    if len(routers) < 2:
        return ()
    return drifts(list(routers.items()), _embedded(rest, rest.captions.some(_DRIFTING)))
