"""Which attributes of its caption a picture of the shapes world has right.

Colours, positions and sizes are read off the pixels: nearest palette colour, then the main blob of
each colour. Only the outline of a blob is judged by a (small) network, which may also answer
"neither", so that a wobbly blob is no shape. The score needs no reference images. Knows nothing of
models or prompts but the grammar of `data.shapes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from bksdm.data.shapes import COLORS, IMAGE_SIZE, RELATIONS, SHAPES, SIZES, Scene, Thing, parse
from bksdm.errors import InputError

# N pictures, K palette colours, H W pixels
MIN_AREA: Final = 40  # pixels; the smallest real object (a small cross) covers 160
CROP: Final = 24
NEITHER: Final = len(SHAPES)  # the answer for outlines that are no shape of this world
ATTRIBUTES: Final = ("background", "count", "color", "size", "shape", "relation", "all")


class OutlineNet(nn.Module):
    """Names the shape of a blob from its mask, cut to its bounding box: (B, 1, 24, 24) -> logits
    (B, shapes + 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (CROP // 4) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, len(SHAPES) + 1),
        )

    def forward(self, masks: Tensor) -> Tensor:
        """Logits of the shapes in the order of `SHAPES`, then of "neither"."""
        logits: Tensor = self.layers(masks)
        return logits


@dataclass(frozen=True)
class Blobs:
    """The main blob of every palette colour in N pictures."""

    background: Tensor  # (N,) palette index of the most frequent colour
    present_NK: Tensor  # bool, colours that have an object (the background has none)
    masks_NKHW: Tensor  # bool
    stray_NK: Tensor  # pixels of the colour outside its main blob
    centers_NK2: Tensor  # x, y in pixels
    boxes_NK4: Tensor  # left, top, right, bottom in pixels, exclusive


def blobs(pixels: Tensor) -> Blobs:
    """Find the blobs of N pictures, uint8 of shape (N, 3, 64, 64)."""
    palette = torch.tensor(list(COLORS.values()), dtype=torch.float)
    distance = torch.cdist(pixels.flatten(2).transpose(1, 2).float(), palette)
    labels_NHW = distance.argmin(2).view(len(pixels), *pixels.shape[2:])
    colors_NKHW = F.one_hot(labels_NHW, len(palette)).movedim(-1, 1).bool()
    background = colors_NKHW.sum((2, 3)).argmax(1)
    # Opening removes the one-pixel fringe where two anti-aliased colours mix into a third.
    colors_NKHW = _dilated(~_dilated(~colors_NKHW)) & colors_NKHW
    masks_NKHW = _main_blob(colors_NKHW, background)
    stray_NK = (colors_NKHW & ~masks_NKHW).sum((2, 3))
    columns, rows = masks_NKHW.any(2), masks_NKHW.any(3)
    boxes_NK4 = torch.stack([_first(columns), _first(rows), _last(columns), _last(rows)], dim=2)
    area = masks_NKHW.sum((2, 3)).clamp(min=1)
    grid = torch.arange(IMAGE_SIZE) + 0.5
    x = (masks_NKHW.sum(2) * grid).sum(2) / area
    y = (masks_NKHW.sum(3) * grid).sum(2) / area
    present_NK = masks_NKHW.sum((2, 3)) >= MIN_AREA
    present_NK.scatter_(1, background[:, None], value=False)
    return Blobs(
        background, present_NK, masks_NKHW, stray_NK, torch.stack([x, y], dim=2), boxes_NK4
    )


def outlines(masks: Tensor, boxes: Tensor) -> Tensor:
    """Cut masks (B, H, W) to their boxes (B, 4) and resize: float (B, 1, 24, 24)."""
    left, top, right, bottom = boxes.float().unbind(1)
    zero = torch.zeros_like(left)
    middle = torch.stack([left + right, top + bottom], dim=1) / IMAGE_SIZE - 1
    width, height = (right - left) / IMAGE_SIZE, (bottom - top) / IMAGE_SIZE
    rows = [width, zero, middle[:, 0], zero, height, middle[:, 1]]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(masks), 1, CROP, CROP], align_corners=False)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)


@torch.no_grad()
def attribute_scores(pixels: Tensor, captions: Sequence[str], net: OutlineNet) -> dict[str, Tensor]:
    """Share of each attribute that each picture has right: {attribute: (N,)}, NaN where a caption
    does not speak of it.

    Args:
        pixels: uint8 of shape (N, 3, 64, 64).
        captions: N captions of the shapes world.
        net: the trained outline network.

    Raises:
        InputError: pictures of another size, or a caption outside the grammar.
    """
    if (
        pixels.dtype != torch.uint8
        or pixels.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE)
        or len(pixels) != len(captions)
    ):
        raise InputError(
            f"expected {len(captions)} uint8 pictures of 3x64x64, got {pixels.dtype}"
            f" {tuple(pixels.shape)}"
        )
    found = blobs(pixels)
    shape_NK = torch.full(found.present_NK.shape, NEITHER)
    at = found.present_NK
    if at.any():
        shape_NK[at] = net(outlines(found.masks_NKHW[at], found.boxes_NK4[at])).argmax(1)
    rows = [_judge(parse(caption), found, shape_NK, n) for n, caption in enumerate(captions)]
    return {name: torch.tensor([row[name] for row in rows]) for name in ATTRIBUTES}


def _judge(scene: Scene, found: Blobs, shape_NK: Tensor, n: int) -> dict[str, float]:
    palette = list(COLORS)
    things = [(thing, palette.index(thing.color)) for thing in scene.things]
    present = found.present_NK[n]
    extra = present.sum() > sum(bool(present[k]) for _, k in things)
    stray = found.stray_NK[n].clone()
    stray[found.background[n]] = 0
    parts = {
        "background": [palette[int(found.background[n])] == scene.background],
        "count": [
            not extra
            and bool((stray < MIN_AREA).all())
            and all(bool(present[k]) for _, k in things)
        ],
        "color": [bool(present[k]) for _, k in things],
        "size": [
            bool(present[k]) and _size(found.boxes_NK4[n, k]) == thing.size for thing, k in things
        ],
        "shape": [_has_shape(thing, int(shape_NK[n, k])) for thing, k in things],
        "relation": (
            [_related(scene.relation, found, n, [k for _, k in things])] if scene.relation else []
        ),
    }
    row = {
        name: sum(values) / len(values) if values else float("nan")
        for name, values in parts.items()
    }
    return row | {"all": float(all(all(values) for values in parts.values()))}


def _size(box: Tensor) -> str:
    side = max(int(box[2] - box[0]), int(box[3] - box[1]))
    return min(SIZES, key=lambda name: abs(2 * SIZES[name] - side))


def _has_shape(thing: Thing, answer: int) -> bool:
    return answer != NEITHER and SHAPES[answer] == thing.shape


def _related(relation: str, found: Blobs, n: int, colors: list[int]) -> bool:
    if not found.present_NK[n, colors].all():
        return False
    axis, side = RELATIONS[relation]
    offset = found.centers_NK2[n, colors[0]] - found.centers_NK2[n, colors[1]]
    return bool(offset[axis].sign() == side and offset[axis].abs() > offset[1 - axis].abs())


def _dilated(masks: Tensor) -> Tensor:
    """Masks grown by one pixel in all eight directions."""
    for axis in (2, 3):
        grown = masks.clone()
        size = masks.shape[axis] - 1
        grown.narrow(axis, 1, size).logical_or_(masks.narrow(axis, 0, size))
        grown.narrow(axis, 0, size).logical_or_(masks.narrow(axis, 1, size))
        masks = grown
    return masks


def _main_blob(masks_NKHW: Tensor, background: Tensor) -> Tensor:
    """The largest connected part of each colour; the background is left as it is."""
    result = masks_NKHW.clone()
    todo = masks_NKHW.any((2, 3)).scatter(1, background[:, None], value=False)
    for n, k in todo.nonzero().tolist():
        parts, count = ndimage.label(masks_NKHW[n, k].numpy())
        if count > 1:
            result[n, k] = torch.from_numpy(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
    return result


def _first(lines: Tensor) -> Tensor:
    return lines.int().argmax(2)


def _last(lines: Tensor) -> Tensor:
    return lines.shape[2] - lines.flip(2).int().argmax(2)
