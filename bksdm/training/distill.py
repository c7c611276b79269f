"""Distillation of a student from its frozen teacher: one training step, read as BK-SDM's method
section.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from bksdm import expected
from bksdm.batch import NoisyBatch, TextImageBatch
from bksdm.losses.distill import LossTerms, LossWeights, distillation_terms
from bksdm.models.cost import step_flops, unet_module_cost
from bksdm.models.teacher import Teacher
from bksdm.training.module import StepModule, StepSettings
from bksdm.training.optim import OptimizerSettings
from bksdm.training.predict import Predictor, compiled, predict
from bksdm.training.speed import SpeedSettings, share_out

TERMS: Final = ("task", "output_kd", "feature_kd", "loss")  # as `training_step` returns them


class Distillation(StepModule):
    """Trains `student`.

    Args:
        student: the U-Net to be trained.
        teacher: the frozen teacher that it was cut from.
        text_encoder: the student's own, frozen; None where it is the teacher's.
        masks: by tensor of the student, where it is not zero, if it is to stay so (`held`).
        pairs: (teacher module, student module) whose outputs are compared.
        weights: weights of the loss terms.
        optimizer: optimiser settings.
        normalise_features: divide each feature error by the teacher's mean square there.
        min_snr_gamma: Min-SNR weighting of the task loss; None switches it off.
        gradient_clip: global gradient norm.
        speed: how a step is computed.
        identity: plain values that a checkpoint carries and a resuming run must share (plan,
            teacher, data).
    """

    doing = "distil"
    term_names = TERMS

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: Teacher,
        *,
        pairs: Sequence[tuple[str, str]],
        weights: LossWeights,
        optimizer: OptimizerSettings,
        normalise_features: bool = False,
        min_snr_gamma: float | None = None,
        gradient_clip: float = 1.0,
        speed: SpeedSettings = SpeedSettings(),  # noqa: B008 - frozen
        text_encoder: CLIPTextModel | None = None,
        masks: Mapping[str, Tensor] | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        expected.number("method.gradient_clip", gradient_clip, above=0)
        if min_snr_gamma is not None:
            expected.number("method.min_snr_gamma", min_snr_gamma, above=0)
        expected.switch("method.normalise_features", normalise_features)
        super().__init__(
            teacher,
            around=teacher.with_text(text_encoder),
            settings=StepSettings(
                optimizer=optimizer,
                min_snr_gamma=min_snr_gamma,
                gradient_clip=gradient_clip,
                speed=speed,
            ),
            identity=identity,
        )
        self.student = student.train()
        self.masks = masks or {}
        self.teacher_taps = [name for name, _ in pairs]
        self.student_taps = [name for _, name in pairs]
        self.weights = weights
        self.normalise_features = normalise_features
        self._compiled = ExitStack()
        self._ask_teacher: Predictor = self._eager(teacher.unet, self.teacher_taps)
        self._ask_student: Predictor = self._eager(student, self.student_taps)
        if speed.gradient_checkpointing:
            student.enable_gradient_checkpointing()

    @property
    def trained(self) -> UNet2DConditionModel:
        """The student."""
        return self.student

    def flops(self, resolution: int) -> int:
        """Useful FLOPs of a step for each picture of `resolution` pixels a side."""
        side = resolution // self.teacher.latent_factor
        tokens = self.teacher.tokenizer.model_max_length
        networks = (self.teacher.unet, self.student)
        costs = [unet_module_cost(unet, side, tokens=tokens) for unet in networks]
        return step_flops(*[cost.total.macs for cost in costs])

    @property
    def own_text(self) -> CLIPTextModel | None:
        """The student's text encoder where it is not the teacher's."""
        own = self.around.text_encoder
        return None if own is self.teacher.text_encoder else own

    def prepare(self, device: torch.device) -> None:
        """The teacher goes to the device, the student gets its layout; both are compiled if they
        are to be, when they are first asked.
        """
        own = self.own_text and self.own_text.to(device=device, dtype=self.speed.teacher_dtype)
        teacher = self.speed.frozen(self.teacher, device)
        self._held = (teacher, teacher.with_text(own))
        self.speed.lay_out(self.student)
        self.diffusion = self.diffusion.to(device)
        self._ask_teacher = self._eager(teacher.unet, self.teacher_taps)
        if self.speed.compile is not None:
            start, graph = self._compiled.enter_context, partial(compiled, mode=self.speed.compile)
            self._ask_teacher = start(graph(teacher.unet, self.teacher_taps))
            self._ask_student = start(graph(self.student, self.student_taps))

    def configure_model(self) -> None:
        """Under FSDP2 each process keeps its share of the student, block by block."""
        if self.device_mesh is not None:
            share_out(self.student, self.device_mesh["data_parallel"])

    def teardown(self, stage: str) -> None:
        """Give the compiled graphs' hooks back."""
        del stage
        self._compiled.close()
        self._ask_teacher = self._eager(self.teacher.unet, self.teacher_taps)
        self._ask_student = self._eager(self.student, self.student_taps)

    def as_student_reads(self, noisy: NoisyBatch, batch: TextImageBatch) -> NoisyBatch:
        """The same with text states of the student's own text encoder, if it has one: those that
        are cached are the teacher's.
        """
        if self.own_text is None:
            return noisy
        return replace(noisy, text=self.around.encode_text(batch.tokens))

    def terms(self, batch: TextImageBatch) -> LossTerms:
        """Noise, teacher, student, losses."""
        return self._terms(batch, self._ask_teacher, self._ask_student)

    def _terms(
        self, batch: TextImageBatch, ask_teacher: Predictor, ask_student: Predictor
    ) -> LossTerms:
        if self.speed.cuda_graphs:
            # Or the student's graph would begin a step, and the teacher's answers would be gone.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        noisy = self.noise(batch)
        with self.speed.kernels():  # not around the VAE, whose head is too wide for some
            with torch.no_grad(), torch.autocast(self.device.type, enabled=self.cast_teacher):
                target = ask_teacher(noisy)
            guess = ask_student(self.as_student_reads(noisy, batch))
        return distillation_terms(guess, target, noisy, normalise_features=self.normalise_features)

    def training_step(self, batch: TextImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """One micro-batch: the loss to minimise, and all `TERMS`, which stay on the device until
        somebody reads them (`telemetry`).
        """
        del batch_idx
        terms = self.terms(batch)
        total = terms.total(self.weights)
        return {"loss": total, "terms": torch.stack([*vars(terms).values(), total]).detach()}

    def validation_step(self, batch: TextImageBatch, batch_idx: int) -> None:
        """The same terms on the validation samples, whose noise never changes. Eager: their
        batches are of several sizes, and each would be compiled.
        """
        del batch_idx
        teacher = self._eager(self.teacher.unet, self.teacher_taps)
        terms = self._terms(batch, teacher, self._eager(self.student, self.student_taps))
        named = {**vars(terms), "loss": terms.total(self.weights)}
        self.log_dict(
            {f"val/{name}": value for name, value in named.items()},
            batch_size=len(batch),
            sync_dist=True,
        )

    @staticmethod
    def _eager(unet: UNet2DConditionModel, taps: Sequence[str]) -> Predictor:
        return partial(predict, unet, taps=taps)
