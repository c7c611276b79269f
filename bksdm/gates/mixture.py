"""The end of the first stage: codes become architectures, and every training caption is routed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bksdm.data.captions import BAD, Captions
from bksdm.gates.budget import Budget
from bksdm.gates.deploy import even_offsets, fitted_gates, own_gates
from bksdm.gates.router import Router
from bksdm.models.encoder import Encoder

_TEXTS = 1024  # embedded at once


@dataclass(frozen=True, eq=False)
class Mixture:
    """What a trained router comes to.

    Attributes:
        router: with the codes' offsets. A code to which no training sample goes has minus infinity:
            nothing is routed there later either, as it has no expert.
        gates: (N, D) of 0 and 1.
        routes: (samples,), int64: the code of each training sample, `BAD` where its caption cannot
            be read.
    """

    router: Router
    gates: Tensor
    routes: npt.NDArray[np.int64]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(N,), samples of each code."""
        good = self.routes[self.routes != BAD]
        return np.bincount(good, minlength=self.router.experts).astype(np.int64)

    @property
    def shares(self) -> Tensor:
        """(N,), float64, of all samples that are routed."""
        counts = torch.from_numpy(self.counts).double()
        return counts / counts.sum()


def deployed(
    router: Router,
    encoder: Encoder,
    captions: Captions,
    *,
    balance: bool,
    target: float | None,
    same_size: bool = False,
    budget: Budget,
) -> Mixture:
    """Route all captions, and make the codes' architectures.

    Args:
        router: trained; its offsets are set, on the device where it is.
        encoder: of the captions.
        captions: of the training samples.
        balance: make the codes' shares equal; else each caption goes to the nearest code.
        target: mean MACs of the routed samples that the architectures are fitted to; None takes
            what each code has above 1/2.
        same_size: each code is fitted to the target by itself.
        budget: MACs of gates.
    """
    router.offsets.zero_()
    texts = captions.texts
    scores = torch.cat(
        [
            router.scores(encoder.embed(texts[start : start + _TEXTS]).to(router.mean.device)).cpu()
            for start in range(0, len(texts), _TEXTS)
        ]
    )
    counts = torch.from_numpy(captions.counts)
    if balance:
        router.offsets.copy_(even_offsets(scores, counts))
    places = (scores + router.offsets.cpu()).argmax(1).numpy()
    routes = np.where(captions.of == BAD, BAD, places[captions.of])
    mixture = Mixture(router, own_gates(router).cpu(), routes)
    router.offsets[torch.from_numpy(mixture.counts == 0)] = -torch.inf
    if target is None:
        return mixture
    margins = router.relaxation.margins(router.codes, router.sites)
    if same_size:
        one = torch.ones(1)
        each = [fitted_gates(code[None], one, budget, target=target) for code in margins]
        return Mixture(router, torch.cat(each), routes)
    gates = fitted_gates(margins, mixture.shares, budget, target=target)
    return Mixture(router, gates, routes)
