"""The network that names the outline of a blob, or says that it is no shape of this world."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bksdm.data.shapes import COLORS, SHAPES, Scene
from bksdm.evaluation.attributes import CROP, NEITHER, OutlineNet, blobs, outlines

from .fit import fit
from .pictures import pictures

BATCH = 256


def train(work: Path, *, steps: int, count: int = 12_000) -> OutlineNet:
    """Train on masks of drawn shapes, roughened, and on random blobs and broken shapes as
    "neither".
    """
    scenes, pixels = pictures(count, seed=4)
    found = [blobs(chunk) for chunk in pixels.split(1000)]
    at = torch.cat([part.present_NK for part in found])
    masks = torch.cat([part.masks_NKHW for part in found])[at]
    boxes = torch.cat([part.boxes_NK4 for part in found])[at]
    crops = torch.cat(
        [outlines(m, b) for m, b in zip(masks.split(4096), boxes.split(4096), strict=True)]
    )
    labels = torch.tensor(
        [
            shape_of(scene, color)
            for scene, row in zip(scenes, at, strict=True)
            for color in row.nonzero()[:, 0].tolist()
        ]
    )
    torch.manual_seed(0)
    net = OutlineNet()

    def loss(rng: torch.Generator) -> Tensor:
        index = torch.randint(len(crops), (BATCH,), generator=rng)
        real = roughened(crops[index], rng)
        broken = torch.cat(
            [_random_blobs(BATCH // 4, rng), _broken(crops[index[: BATCH // 4]], rng)]
        )
        answers = torch.cat([labels[index], torch.full((len(broken),), NEITHER)])
        return F.cross_entropy(net(torch.cat([real, broken])), answers)

    return fit(net, loss, steps=steps, lr=2e-3, state=work / "outline.pt")


def shape_of(scene: Scene, color: int) -> int:
    """Index of the shape that has this palette colour in the scene."""
    name = list(COLORS)[color]
    return next(SHAPES.index(thing.shape) for thing in scene.things if thing.color == name)


def roughened(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Outlines with an uneven edge, as generated ones have: blurred, plus noise, cut again."""
    noise = _smooth(torch.randn(crops.shape, generator=rng), 3) * 0.35
    return (_smooth(crops, 3) + noise > 0.5).float()


def _random_blobs(count: int, rng: torch.Generator) -> Tensor:
    field = _smooth(torch.randn(count, 1, CROP, CROP, generator=rng), 7)
    hill = (
        1
        - torch.linspace(-1.2, 1.2, CROP)[:, None] ** 2
        - torch.linspace(-1.2, 1.2, CROP)[None] ** 2
    )
    masks = field / field.std() * 0.7 + hill > 0.2
    return (masks & _smooth(masks.float(), 3).gt(0.4)).float()


def _broken(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Shapes with a quarter bitten off, or mixed with another shape half by half."""
    bitten = crops.clone()
    half = CROP // 2
    for i, corner in enumerate(torch.randint(4, (len(crops),), generator=rng).tolist()):
        top, left = corner // 2 * half, corner % 2 * half
        bitten[i, 0, top : top + half, left : left + half] = 0
    # A corner of a triangle is empty anyway: only what lost much is broken for sure.
    lost = (crops - bitten).sum((1, 2, 3)) > 0.12 * CROP**2
    return roughened(bitten, rng)[lost]


def _smooth(images: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(images, size, stride=1, padding=size // 2, count_include_pad=False)
