import torch
from diffusers.training_utils import EMAModel

from tests.conftest import tiny_unet


def test_the_average_follows_its_formula() -> None:
    """decay min(cap, (1 + n) / (10 + n)) at step n, from the weights after the first step on."""
    unet = tiny_unet("sd1")
    weight = unet.conv_in.bias
    average = EMAModel([weight], decay=0.5, foreach=True)
    expected = weight.detach().clone()
    for n in range(12):
        with torch.no_grad():
            weight.add_(1)
        average.step([weight])
        decay = 0.0 if n == 0 else min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.shadow_params[0], expected)
