"""Many pruned versions of one model, judged beside the dense one on the same prompts and noise.

The pipeline is loaded once and becomes dense again after each version; the dense pictures are made
once a seed; what is measured is kept on disk, so that the same command goes on where it was.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from diffusers import StableDiffusionPipeline

from bksdm.evaluation.evaluate import evaluate, ready
from bksdm.evaluation.gallery import DIGITS, IMAGES, Gallery, NotFiniteError, prompts_hash, slug
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.pruning.calibration import CalibrationSettings, Samples
from bksdm.evaluation.pruning.grid import Configuration
from bksdm.evaluation.pruning.version import pruned, refuse_unfit, sizes_of
from bksdm.evaluation.results import (
    RESULTS,
    ModelResult,
    read_items,
    read_results,
    write_items,
    write_results,
)
from bksdm.evaluation.score import Items, Score
from bksdm.export.sparse import folder_sparsity, write_sparsity
from bksdm.processes import Process
from bksdm.surgery.sparse.accounting import Accounting, accounting
from bksdm.surgery.sparse.plan import SparsityPlan

DENSE: Final = "dense"
REVISION: Final = 2  # of what a criterion computes: results of another one are not read
_SHOWN: Final = 8  # pictures of a version that are kept, of each seed


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One version, judged.

    Attributes:
        configuration: how it was made; None for the dense model.
        seed: of its prompts.
        plan: what is zero.
        accounting: the same, counted in every way.
        scores: with their items.
        folder: where the first of its pictures are.
        texts: of its prompts, by id.
    """

    configuration: Configuration | None
    seed: int
    plan: SparsityPlan
    accounting: Accounting
    scores: tuple[Score, ...]
    folder: Path
    texts: Mapping[str, str]

    def score(self, name: str) -> Score | None:
        """The score of that name."""
        return next((each for each in self.scores if each.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Study:
    """How versions of a pipeline are made and judged.

    Attributes:
        pipeline: prepared by the protocol's sampling, on its device; dense between calls.
        weights: its fingerprint.
        protocol: by seed: the same but for the seed of its prompts.
        calibration: by seed, likewise.
        settings: "protocol" and "calibration" as plain values: what else results depend on.
        root: folder of all results.
        already_sparse: whether a pipeline that has zeros will do.
        before: what was zero in it already, if it says so.
        samples: what the U-Net is calibrated on, by seed; filled in when first needed.
        prompts: of the protocol, likewise: a file of them is read once.
    """

    pipeline: StableDiffusionPipeline
    weights: str
    protocol: Callable[[int], Protocol]
    calibration: Callable[[int], CalibrationSettings]
    settings: Mapping[str, Any]
    root: Path
    already_sparse: bool = False
    before: SparsityPlan | None = None
    samples: dict[int, Samples] = field(default_factory=dict)
    prompts: dict[int, list[Prompt]] = field(default_factory=dict)

    def dense(self, seed: int) -> Measured:
        """The model as it is; its pictures all stay, as the others' are compared with them."""
        folder = self._folder(DENSE, seed, {"seed": seed})
        gallery = self._gallery(folder, seed)
        scores = self._scores(folder, seed, gallery, gallery)
        return self._measured(
            None, seed, self.before or SparsityPlan(components=()), scores, folder
        )

    def has(self, configuration: Configuration) -> bool:
        """Whether a version is judged already."""
        return (self._of(configuration) / RESULTS).exists()

    def measured(self, configuration: Configuration) -> Measured:
        """A version, made and judged, or read if it was before."""
        folder, seed = self._of(configuration), configuration.seed
        gallery = self._gallery(folder, seed)
        if self.has(configuration):
            self._thin_out(gallery, seed)  # if it was killed before it did
            plan = folder_sparsity(folder)
            assert plan is not None
            return self._measured(configuration, seed, plan, _read(folder), folder)
        refuse_unfit(self.pipeline, configuration, already_sparse=self.already_sparse)
        dense = self.dense(seed)
        baseline = self._gallery(dense.folder, seed)
        self._clear_halves(gallery, seed)
        folder.mkdir(parents=True, exist_ok=True)
        version = pruned(
            self.pipeline,
            configuration,
            calibration=self.calibration,
            samples=self.samples,
            already_sparse=self.already_sparse,
            before=self.before,
        )
        with version as plan:
            write_sparsity(folder, plan)
            try:
                scores = self._scores(folder, seed, gallery, baseline)
            except NotFiniteError:  # it is beyond the cliff; others may not be
                scores = self._written(collapsed(dense.scores), folder, seed)
        self._thin_out(gallery, seed)
        return self._measured(configuration, seed, plan, scores, folder)

    def _of(self, configuration: Configuration) -> Path:
        values, point = configuration.values(), configuration.point
        name = f"{configuration.label}-{point}-{configuration.selection.layers}"
        if configuration.calibrated:
            prompts = self.calibration(configuration.seed).read()
            values["calibration"] = self.settings["calibration"]
            values["calibration_prompts"] = prompts_hash(prompts)
        return self._folder(f"{name}-seed{configuration.seed}", configuration.seed, values)

    def _folder(self, name: str, seed: int, values: Mapping[str, Any]) -> Path:
        """Of everything that its results depend on."""
        made = {
            "revision": REVISION,
            "weights": self.weights,
            "protocol": self.settings["protocol"],
            "prompts": prompts_hash(self._prompts(seed)),
            **values,
        }
        text = json.dumps(made, sort_keys=True)
        return self.root / f"{slug(name)}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"

    def _prompts(self, seed: int) -> list[Prompt]:
        if seed not in self.prompts:
            self.prompts[seed] = self.protocol(seed).prompts.read()
        return self.prompts[seed]

    def _gallery(self, folder: Path, seed: int) -> Gallery:
        protocol = self.protocol(seed)
        return Gallery(folder, protocol.keeping, protocol.latents)

    def _scores(
        self, folder: Path, seed: int, gallery: Gallery, baseline: Gallery
    ) -> tuple[Score, ...]:
        """Read, or measured and written."""
        if (folder / RESULTS).exists():
            return _read(folder)
        protocol = self.protocol(seed)
        model = ready(self.pipeline, protocol)  # refuses before there is a folder
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        scores = evaluate(
            model,
            self._prompts(seed),
            gallery,
            baseline=baseline,
            process=Process(),
        )
        return self._written(scores, folder, seed)

    def _written(self, scores: Sequence[Score], folder: Path, seed: int) -> tuple[Score, ...]:
        protocol = self.protocol(seed)
        write_items(scores, folder)
        result = ModelResult(
            name=folder.name,
            weights=self.weights,
            protocol={"name": protocol.name, "decide": protocol.decide, "seed": seed},
            scores=tuple(scores),
            images=IMAGES,
            suffix=protocol.keeping.suffix,
        )
        write_results([result], folder / RESULTS)
        return tuple(scores)

    def _clear_halves(self, gallery: Gallery, seed: int) -> None:
        """Pictures that stayed when a version was thinned out have no latents any more."""
        for prompt in self._prompts(seed):
            if gallery.latents and not gallery.file(prompt).with_suffix(".npy").exists():
                gallery.file(prompt).unlink(missing_ok=True)

    def _thin_out(self, gallery: Gallery, seed: int) -> None:
        """Hundreds of versions: only the first pictures stay."""
        for i, prompt in enumerate(self._prompts(seed)):
            gallery.file(prompt).with_suffix(".npy").unlink(missing_ok=True)
            if i >= _SHOWN:
                gallery.file(prompt).unlink(missing_ok=True)

    def _measured(
        self,
        configuration: Configuration | None,
        seed: int,
        plan: SparsityPlan,
        scores: tuple[Score, ...],
        folder: Path,
    ) -> Measured:
        size = self.pipeline.unet.dtype.itemsize
        return Measured(
            configuration=configuration,
            seed=seed,
            plan=plan,
            accounting=accounting(plan, sizes_of(self.pipeline), bytes_a_weight=size),
            scores=scores,
            folder=folder,
            texts={prompt.id: prompt.text for prompt in self._prompts(seed)},
        )


def collapsed(dense: Sequence[Score]) -> list[Score]:
    """Scores of a version of which a picture is not a number: no prompt is right, and of all else
    nothing is known.
    """
    found = []
    for score in dense:
        value = 0.0 if score.percent else math.nan
        items = score.items and Items(score.items.ids, (value,) * len(score.items.ids))
        found.append(replace(score, value=value, low=None, high=None, items=items))
    return found


def _read(folder: Path) -> tuple[Score, ...]:
    (result,), items = read_results(folder / RESULTS), read_items(folder)
    return tuple(replace(score, items=items.get(score.name)) for score in result.scores)
