"""An analysis of two experts of a tiny U-Net, and a code without prompts."""

from bksdm.evaluation.comparison import Interval
from bksdm.evaluation.routing.analysis import Analysis, ExpertAnalysis
from bksdm.evaluation.routing.drift import Drift
from bksdm.evaluation.routing.hardness import Hardness, Kind, RatedPrompt
from bksdm.evaluation.routing.heat import in_forward_order, kept_shares
from bksdm.evaluation.routing.words import Word, Words
from bksdm.surgery.sites import prunable_sites
from tests.conftest import tiny_unet
from tests.surgery.test_width import some_plan


def analysis(*, text: str = "a big red circle on a white background") -> Analysis:
    """`text` is a word, a kind, and a prompt."""
    sites = prunable_sites(tiny_unet("sd1"))
    words = Words(
        most=(Word(word=text, lift=1.9, share=0.5),),
        fewest=(Word(word="small", lift=0.2, share=0.1),),
    )
    experts = tuple(
        ExpertAnalysis(
            expert=code,
            prompts=prompts,
            share=prompts / 30,
            macs=1e6 * (code + 1),
            macs_share=0.3 * (code + 1),
            parameters=1000 * (code + 1),
            modules_dropped=2,
            kept=kept_shares(some_plan(sites, seed=code), sites) if prompts else (),
            words=words if prompts else Words(),
        )
        for code, prompts in enumerate((10, 20, 0))
    )
    rated = tuple(
        RatedPrompt(prompt=f"{text} {i}", difficulty=2 - i / 10, expert=i % 2, macs_share=0.3)
        for i in range(20)
    )
    return Analysis(
        mean=0.5,
        target=0.5,
        counting="true",
        teacher={"macs": 3e6, "parameters": 4000.0},
        sites=tuple(site.name for site in in_forward_order(sites)),
        experts=experts,
        hardness=Hardness(
            prompts=20,
            timesteps=(100, 500),
            losses=(0.5, 0.1),
            hardest=rated[:10],
            easiest=rated[:9:-1],
            correlation=Interval(0.4, 0.1, 0.6),
        ),
        kinds=(Kind(kind=text, prompts=30, macs_share=0.5, difficulty=None),),
        drift=(Drift(earlier=10, later=20, share=0.25, prompts=48),),
    )
