import io

import numpy as np
import pytest
import torch

from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measures.attributes import share
from bksdm.evaluation.prompts import from_texts, shapes_prompts
from bksdm.evaluation.score import Items
from bksdm.export.pipeline import assemble
from bksdm.models.teacher import Teacher


def images(teacher: Teacher, order: list[int], batch_size: int) -> dict[str, torch.Tensor]:
    prompts = from_texts(["a red circle", "a blue square", "a green cross"], seed=5)
    sampling = Sampling(steps=3, guidance=3.0, batch_size=batch_size)
    pipeline = assemble(teacher, teacher.unet)
    return {
        image.prompt.id: image.latents
        for image in generate(pipeline, [prompts[i] for i in order], sampling)
    }


def test_an_image_depends_on_neither_batch_size_nor_order(teacher: Teacher) -> None:
    expected = images(teacher, [0, 1, 2], 1)
    for order, batch_size in [([2, 1, 0], 1), ([0, 1, 2], 3), ([1, 2], 2)]:
        for name, latents in images(teacher, order, batch_size).items():
            torch.testing.assert_close(latents, expected[name], rtol=1e-4, atol=1e-4)


def test_generation_leaves_the_global_generator_alone(teacher: Teacher) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    images(teacher, [0], 1)
    assert torch.equal(torch.rand(1), expected)


def test_png_files_hold_the_pixels(teacher: Teacher) -> None:
    from PIL import Image

    prompts = from_texts(["a red circle"], seed=0)
    item = next(
        generate(
            assemble(teacher, teacher.unet), prompts, Sampling(steps=2, guidance=1.0, batch_size=1)
        )
    )
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(Keeping().generated(item.pixels)))),
        item.pixels.permute(1, 2, 0).numpy(),
    )


def test_prompts_are_fixed_by_their_seed() -> None:
    assert shapes_prompts(20, seed=1) == shapes_prompts(20, seed=1)
    assert shapes_prompts(20, seed=1) == shapes_prompts(40, seed=1)[:20]
    assert shapes_prompts(20, seed=1) != shapes_prompts(20, seed=2)


def test_intervals_are_wilsons() -> None:
    found = share("all", Items(tuple(map(str, range(100))), (1.0,) * 45 + (0.0,) * 55))
    z, p, n = 1.959964, 0.45, 100  # closed form
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-5)


@pytest.mark.parametrize("values", [{"steps": 0}, {"batch_size": 0}])
def test_impossible_sampling_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Sampling(**({"steps": 1, "guidance": 1.0, "batch_size": 1} | values))
