"""A pipeline as one .safetensors file in the layout of the original Stable Diffusion releases, for
A1111, ComfyUI, stable-diffusion.cpp and diffusers' `from_single_file`.

Knows the names and shapes of the tensors in both layouts. Knows nothing of plans or training.

The layout holds tensors and nothing else. Who reads a file must be told, or guesses:

- the U-Net's shape. diffusers is given the student's diffusers folder, as `config` of
  `from_single_file`, or takes the full U-Net for granted; it reads none whose `layers_per_block` is
  a list.
  ComfyUI reads the shape off the names. stable-diffusion.cpp knows the full U-Net and Tiny, the
  latter with `gaps` alone. A1111 wants a release's YAML beside the file, with the student's
  `num_res_blocks` and `channel_mult`, and has no word for a U-Net without mid block.
- what the model predicts (noise or v), and the noise schedule: readers take the releases' ones, and
  tell v by tests of their own that may not know a student. The metadata says it to people.
- numbers of heads, groups of the norms (32), the VAE's scaling factor (0.18215): readers other than
  diffusers take the releases', so a file of the embedded world's networks is for diffusers alone.
- the tokenizer. SD 2 pads with "!", SD 1 with the end of the text.

Of SD 2's text encoder diffusers keeps 23 layers of 24, which suffice; so does the file.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from bksdm.atomic import open_to_others, replacing
from bksdm.errors import InputError
from bksdm.export.original_encoders import text_names, vae_names
from bksdm.export.original_unet import unet_names


def original_state(
    pipeline: StableDiffusionPipeline, *, gaps: bool = False, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """All tensors of U-Net, VAE and text encoder under their original names and in their original
    shapes, contiguous, no two in one storage.

    Args:
        pipeline: a stock Stable Diffusion 1 or 2, whole or without blocks.
        gaps: see `unet_names`.
        dtype: to convert to; None keeps each tensor's.

    Raises:
        InputError: the layout has no place for something.
    """
    result: dict[str, Tensor] = {}
    storages: set[int] = set()
    for module, names in _parts(pipeline, gaps=gaps):
        state = module.state_dict()
        sources: dict[str, list[str]] = {}
        for name, place in names.items():
            sources.setdefault(place, []).append(name)
        for place, group in sources.items():
            assert place not in result, place
            tensor = _original(place, group, state)
            tensor = tensor.to(dtype or tensor.dtype).contiguous()
            storage = tensor.untyped_storage().data_ptr()
            result[place] = tensor.clone() if storage in storages else tensor
            storages |= {storage} - {0}  # tensors on the meta device have none
    return result


def _parts(
    pipeline: StableDiffusionPipeline, *, gaps: bool
) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    wanted = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    for part, kind in wanted.items():
        module = getattr(pipeline, part)
        if not isinstance(module, kind):
            raise InputError(
                f"the pipeline's {part} is a {type(module).__name__}; the original layout has a"
                f" {kind.__name__}; export a diffusers folder instead"
            )
    unet, vae, text = pipeline.unet, pipeline.vae, pipeline.text_encoder
    yield unet, unet_names(unet.config, unet.state_dict(), gaps=gaps)
    yield vae, vae_names(vae.config, vae.state_dict())
    yield text, text_names(text.config.to_dict(), text.state_dict())


def _original(place: str, names: list[str], state: dict[str, Tensor]) -> Tensor:
    """The tensor of one place: one of the state's in another shape, or q, k and v stacked."""
    if ".in_proj_" in place:
        stack = [state[name] for part in "qkv" for name in names if f".{part}_proj." in name]
        assert len(stack) == len(names) == 3, place
        return torch.cat([tensor.detach() for tensor in stack])
    (name,) = names
    tensor = state[name].detach()
    if ".mid.attn_1." in place and tensor.ndim == 2:  # a 1 x 1 convolution there
        return tensor[:, :, None, None]
    return tensor


def write_original(
    pipeline: StableDiffusionPipeline,
    path: Path,
    *,
    gaps: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a pipeline as one file, or replace it; other arguments as of `original_state`.

    Raises:
        InputError: the layout has no place for something, or `path` does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a name that ends in .safetensors")
    state = original_state(pipeline, gaps=gaps, dtype=dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=_metadata(pipeline, title=path.stem))
        open_to_others(temporary)


def _metadata(pipeline: StableDiffusionPipeline, *, title: str) -> dict[str, str]:
    """What safetensors wants, and what the layout cannot say, in the words of the ModelSpec that
    model managers show (github.com/Stability-AI/ModelSpec) and of ComfyUI (`predict_key`).
    """
    predicted = pipeline.scheduler.config.get("prediction_type", "epsilon")
    kind = "v" if predicted == "v_prediction" else predicted
    size = pipeline.unet.config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.prediction_type": kind,
        "modelspec.predict_key": kind,
    }
