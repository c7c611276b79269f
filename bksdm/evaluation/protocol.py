"""A protocol: which prompts, how pictures are made and kept, what is measured, what decides."""

from collections.abc import Mapping
from dataclasses import dataclass

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Measure
from bksdm.evaluation.prompts import PromptSource


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that a score depends on besides the model.

    Attributes:
        name: short, part of folder names.
        prompts: where they come from.
        sampling: how pictures are made.
        keeping: what happens to them before they are measured.
        measures: what is measured, in one pass, by any name; None measures nothing.
        decide: the name of the score that verdicts are about; one with items.
        latents: whether measures need the sampler's final latents.
    """

    name: str
    prompts: PromptSource
    sampling: Sampling
    keeping: Keeping
    measures: Mapping[str, Measure | None]
    decide: str
    latents: bool = False

    def __post_init__(self) -> None:
        _settings("protocol.prompts", self.prompts, has="read")
        _settings("protocol.sampling", self.sampling, has="prepared")
        _settings("protocol.keeping", self.keeping, has="generated")
        expected.switch("protocol.latents", self.latents)
        if not self.measures or not isinstance(self.measures, dict) or not self.wanted:
            raise InputError(
                f"protocol {self.name}: measures={self.measures}; expected at least one"
            )
        for name, measure in self.measures.items():
            if measure is not None:
                _settings(f"protocol.measures.{name}", measure, has="begin")
        names = [name for measure in self.wanted for name in measure.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"protocol {self.name}: {', '.join(twice)} is measured twice; expected each score"
                " once"
            )
        if self.decide not in names:
            raise InputError(
                f"protocol {self.name}: decide={self.decide!r} is none of its scores:"
                f" {', '.join(names)}; set protocol.decide"
            )
        if not self.latents:
            self._refuse_without_latents()

    def _refuse_without_latents(self) -> None:
        for name, measure in self.measures.items():
            if getattr(measure, "needs_latents", False):
                raise InputError(
                    f"protocol {self.name}: latents=false, and measures.{name} is of latents;"
                    f" expected latents: true, or set protocol.measures.{name}=null"
                )

    @property
    def wanted(self) -> list[Measure]:
        """The measures that are taken."""
        return [measure for measure in self.measures.values() if measure is not None]


def _settings(name: str, value: object, *, has: str) -> None:
    """Refuse what the shell may have put in the place of a group of settings."""
    if not hasattr(value, has):
        raise InputError(
            f"{name}={value}: expected its settings, as conf/protocol/*.yaml have them"
        )
