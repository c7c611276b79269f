"""Make the embedded world's teacher and scoring network anew: `make assets`, hours on two cores,
resumable.

Each part is skipped if the work folder has it. The U-Net runs in two processes of one thread each,
which beat one process of two threads on small networks.
"""

import argparse
import json
import logging
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from bksdm.evaluation.attributes import OutlineNet
from bksdm.export.pipeline import write_guidance

from . import outline, score, text, unet, vae

STEPS = {"outline": 1000, "vae_inner": 6000, "vae_outer": 1800, "text": 1500, "unet": 3200}
# The two inner stages have one width, as in Stable Diffusion: else Tiny's weights would not fit.
LAYOUT = unet.Layout((64, 96, 80, 80), (False, True, True, False))
BATCH, LR = 64, 1.2e-3  # a process
PICTURES = 60_000


def main() -> None:
    """Make one stage, or pack them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "pack", "score"])
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, default=Path("bksdm/assets/shapes"))
    arguments = parser.parse_args()
    arguments.work.mkdir(exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.stage == "pack":
        pack(arguments.work, arguments.out)
    elif arguments.stage == "score":
        score.write_card(arguments.out)
    else:
        STAGES[arguments.stage](arguments.work)


def make_outline(work: Path) -> None:
    """The scoring network."""
    save_file(
        outline.train(work, steps=STEPS["outline"]).state_dict(), work / "outline.safetensors"
    )


def make_vae(work: Path) -> None:
    """The VAE."""
    vae.train(work, inner_steps=STEPS["vae_inner"], outer_steps=STEPS["vae_outer"]).save_pretrained(
        work / "vae"
    )


def make_text(work: Path) -> None:
    """Tokenizer and text encoder."""
    tokenizer, encoder = text.train(work, steps=STEPS["text"])
    tokenizer.save_pretrained(work / "tokenizer")
    encoder.save_pretrained(work / "text_encoder")


def make_cache(work: Path) -> None:
    """Latents and text states, for training and for validation."""
    parts = {"vae": AutoencoderKL.from_pretrained(work / "vae"), **_text_parts(work)}
    for name, count, seed in (("val", 1024, 7), ("train", PICTURES, 6)):
        torch.save(vars(unet.encode(**parts, count=count, seed=seed)), work / f"{name}.pt")


def make_unet(work: Path) -> None:
    """The U-Net; run by torchrun."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    train, val = (
        unet.Cache(**torch.load(work / f"{name}.pt", weights_only=True))
        for name in ("train", "val")
    )
    model = unet.train(work, train, LAYOUT, steps=STEPS["unet"], batch=BATCH, lr=LR)
    if torch.distributed.get_rank() == 0:
        print(f"validation loss {unet.validation_loss(model, val):.4f}")
        model.save_pretrained(work / "unet")


def pack(work: Path, out: Path) -> None:
    """The shipped folder: fp16 safetensors in diffusers' layout, and the scoring network."""
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(out / part, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=_text_parts(work)["encoder"],
        tokenizer=_text_parts(work)["tokenizer"],
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        scheduler=DPMSolverMultistepScheduler(
            **{k: v for k, v in unet.SCHEDULE.items() if k != "clip_sample"}
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out)
    write_guidance(out, score.PROTOCOL.sampling.guidance)
    for config in out.rglob("config.json"):  # where the parts lay here is nobody's business
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2) + "\n")
    net = OutlineNet()
    net.load_state_dict(load_file(work / "outline.safetensors"))
    save_file(net.half().state_dict(), out / "outline.safetensors")
    print(
        f"{sum(file.stat().st_size for file in out.rglob('*') if file.is_file()) / 2**20:.1f} MiB"
        f" in {out}"
    )


def _text_parts(work: Path) -> dict[str, CLIPTokenizer | CLIPTextModel]:
    return {
        "tokenizer": CLIPTokenizer.from_pretrained(work / "tokenizer"),
        "encoder": CLIPTextModel.from_pretrained(work / "text_encoder").eval(),
    }


STAGES = {
    "outline": make_outline,
    "vae": make_vae,
    "text": make_text,
    "cache": make_cache,
    "unet": make_unet,
}


if __name__ == "__main__":
    main()
