"""`analysis.json`: which prompts a router sends where, and what they get there. The first version
of the format; readers refuse others.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.evaluation.comparison import Interval
from bksdm.evaluation.routing.drift import Drift
from bksdm.evaluation.routing.hardness import Hardness, Kind, RatedPrompt
from bksdm.evaluation.routing.words import Word, Words

_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True)
class ExpertAnalysis:
    """A code of the router.

    Attributes:
        expert: its number.
        prompts: training samples that it takes; an expert of none has neither plan nor words.
        share: of all of them, 0 to 1.
        macs: of one row of one call of its U-Net.
        macs_share: of the teacher's.
        parameters: of its U-Net.
        modules_dropped: that went as a whole.
        kept: of each site the share of units that stay, in the order of `Analysis.sites`; 0 inside
            a module that went; empty without prompts.
        words: what tells its prompts from others.
    """

    expert: int
    prompts: int
    share: float
    macs: float
    macs_share: float
    parameters: int
    modules_dropped: int
    kept: tuple[float, ...]
    words: Words


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What comes of a router.

    Attributes:
        mean: MACs over the training prompts, of the teacher's.
        target: that it was trained for.
        counting: of MACs.
        teacher: its MACs and parameters.
        sites: names of the layers of which units can go, in the order of the forward.
        experts: by code.
        hardness: of validation prompts.
        kinds: of training prompts, in the embedded world; else empty.
        drift: from checkpoint to checkpoint; empty if one alone was kept.
    """

    mean: float
    target: float
    counting: str
    teacher: Mapping[str, float]
    sites: tuple[str, ...]
    experts: tuple[ExpertAnalysis, ...]
    hardness: Hardness
    kinds: tuple[Kind, ...] = ()
    drift: tuple[Drift, ...] = ()

    def values(self) -> dict[str, Any]:
        """As plain values; `analysis_of` is the inverse."""
        return {"format": _FORMAT, **asdict(self)}


def write_analysis(path: Path, analysis: Analysis) -> None:
    """Write it, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(analysis.values(), indent=1, allow_nan=False) + "\n")


def read_analysis(path: Path) -> Analysis:
    """What `write_analysis` wrote.

    Raises:
        InputError: it is not there, or something else.
    """
    try:
        return analysis_of(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"{path}: not there; the command of `bksdm route` again, with analysis=true, writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no analysis of this version of bksdm ({error}); remove it, and the command of"
            " `bksdm route` again writes it"
        ) from error


def analysis_of(values: Any) -> Analysis:
    """From plain values.

    Raises:
        ValueError: they are of another version, or not what they should be.
    """
    try:
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']}")
        found = Analysis(
            mean=_number(values["mean"]),
            target=_number(values["target"]),
            counting=str(values["counting"]),
            teacher={name: _number(values["teacher"][name]) for name in ("macs", "parameters")},
            sites=tuple(map(str, values["sites"])),
            experts=tuple(map(_expert, values["experts"])),
            hardness=_hardness(values["hardness"]),
            kinds=tuple(map(_kind, values["kinds"])),
            drift=tuple(map(_drift, values["drift"])),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if any(len(each.kept) not in (0, len(found.sites)) for each in found.experts):
        raise ValueError("an expert has not as many shares as there are sites")
    return found


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no number")
    return number


def _expert(values: Mapping[str, Any]) -> ExpertAnalysis:
    counts = {name: int(values[name]) for name in ("expert", "prompts", "parameters")}
    words = values["words"]
    return ExpertAnalysis(
        **counts,
        modules_dropped=int(values["modules_dropped"]),
        share=_number(values["share"]),
        macs=_number(values["macs"]),
        macs_share=_number(values["macs_share"]),
        kept=tuple(map(_number, values["kept"])),
        words=Words(
            most=tuple(map(_word, words["most"])), fewest=tuple(map(_word, words["fewest"]))
        ),
    )


def _word(values: Mapping[str, Any]) -> Word:
    lift, share = _number(values["lift"]), _number(values["share"])
    return Word(word=str(values["word"]), lift=lift, share=share)


def _hardness(values: Mapping[str, Any]) -> Hardness:
    interval = values["correlation"]
    return Hardness(
        prompts=int(values["prompts"]),
        timesteps=tuple(map(int, values["timesteps"])),
        losses=tuple(map(_number, values["losses"])),
        hardest=tuple(map(_rated, values["hardest"])),
        easiest=tuple(map(_rated, values["easiest"])),
        correlation=None
        if interval is None
        else Interval(*(_number(interval[name]) for name in ("value", "low", "high"))),
    )


def _rated(values: Mapping[str, Any]) -> RatedPrompt:
    return RatedPrompt(
        prompt=str(values["prompt"]),
        difficulty=_number(values["difficulty"]),
        expert=int(values["expert"]),
        macs_share=_number(values["macs_share"]),
    )


def _kind(values: Mapping[str, Any]) -> Kind:
    difficulty = values["difficulty"]
    return Kind(
        kind=str(values["kind"]),
        prompts=int(values["prompts"]),
        macs_share=_number(values["macs_share"]),
        difficulty=None if difficulty is None else _number(difficulty),
    )


def _drift(values: Mapping[str, Any]) -> Drift:
    whole = {name: int(values[name]) for name in ("earlier", "later", "prompts")}
    return Drift(**whole, share=_number(values["share"]))
