"""A student's model card: metadata that the Hub understands, and a text that says what was removed,
what it costs, how it was measured and made.

Knows the Hub's card format. Knows nothing of runs: all it says is given, as `Card`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from yaml import YAMLError

from bksdm.errors import InputError
from bksdm.export.license import License
from bksdm.models.address import check_repository
from bksdm.models.hub import first_line

TAGS: Final = ("bk-sdm", "stable-diffusion", "distillation", "pruned")
TASK: Final = "text-to-image"


@dataclass(frozen=True)
class CostRow:
    """A line of the cost table, as text."""

    label: str
    teacher: str
    student: str
    change: str = ""


@dataclass(frozen=True)
class Measured:
    """A score for the card's `model-index`: percentages are given as percentages."""

    protocol: str
    score: str
    value: float


@dataclass(frozen=True)
class ResultRow:
    """A score of all columns, as text."""

    label: str
    cells: tuple[str, ...]
    n: str


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """What one protocol measured.

    Attributes:
        protocol: its name.
        columns: the models.
        rows: the scores.
        verdicts: what the comparison with the teacher says, in words.
        environment: steps, guidance, machine, in words.
        measured: the student's scores.
    """

    protocol: str
    columns: tuple[str, ...]
    rows: tuple[ResultRow, ...]
    verdicts: tuple[str, ...]
    environment: str
    measured: tuple[Measured, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that a card says. Texts are markdown.

    Attributes:
        repository: owner/name.
        revision: branch that it lies on; None for main.
        license: which the student inherits.
        base_model: the teacher's Hub id; None where it has none.
        datasets: Hub ids of the training data.
        summary: a paragraph.
        teacher: its name.
        picture: path of the sample grid in the repository.
        exported: whether the diffusers folder is there.
        steps: of the checkpoint.
        max_steps: that the run is to have.
        student_steps: of the exported student, which may be older; None if there is none.
        weights_told: average or raw, in words.
        form_told: what is unusual about its U-Net.
        tags: on the Hub.
        narrow: whether bksdm alone reads its U-Net.
        prompt: an example.
        guidance: that suits it.
        fp16: whether there is such a variant.
        single_file: name of the file in the original layout.
        checkpoint: whether the Lightning checkpoint is there.
        drawing: `surgery.drawing`.
        dropped: modules that are gone, in words.
        costs: teacher and student.
        machine: that times were measured on.
        results: by protocol.
        training: a paragraph on data, steps and hardware.
        starts: the commands, each with its commit.
        limits: a paragraph.
    """

    repository: str
    license: License
    summary: str
    teacher: str
    drawing: str
    dropped: str
    costs: Sequence[CostRow]
    training: str
    starts: Sequence[str]
    limits: str
    steps: int
    max_steps: int
    student_steps: int | None = None
    revision: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    picture: str | None = None
    exported: bool = True
    weights_told: str = ""
    form_told: str = ""
    tags: Sequence[str] = TAGS
    narrow: bool = False
    prompt: str = ""
    guidance: float | None = None
    fp16: bool = False
    single_file: str | None = None
    checkpoint: bool = True
    machine: str = ""
    results: Sequence[ResultTable] = field(default_factory=tuple)

    @property
    def name(self) -> str:
        """Of the model: the repository's without its owner."""
        return self.repository.partition("/")[2]


def card_text(card: Card) -> str:
    """The whole README.md."""
    loader = PackageLoader("bksdm.export", package_path="")
    pages = Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # it is markdown
    )
    revision, guidance = card.revision, card.guidance
    body = pages.get_template("card.md.j2").render(
        **vars(card),
        name=card.name,
        revision_argument="" if revision is None else f', revision="{revision}"',
        revision_address="" if revision is None else f"@{revision}",
        guidance_argument="" if guidance is None else f", guidance_scale={guidance:g}",
    )
    return f"---\n{metadata(card).to_yaml()}\n---\n\n{body}"


def metadata(card: Card) -> ModelCardData:
    """The front matter."""
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=each.protocol,
            dataset_name=each.protocol,
            metric_type=each.score,
            metric_name=each.score,
            metric_value=each.value,
        )
        for table in card.results
        for each in table.measured
    ]
    return ModelCardData(
        license=card.license.id,
        license_name=card.license.name,
        license_link=card.license.link,
        library_name="diffusers" if card.exported and not card.narrow else "bksdm",
        pipeline_tag=TASK,
        base_model=card.base_model,
        datasets=list(card.datasets) or None,
        tags=list(card.tags),
        model_name=card.name,
        eval_results=results or None,
    )


def check_card(text: str) -> None:
    """Raise InputError unless the front matter is model card metadata: before anything is sent."""
    try:
        data = ModelCard(text).data
    except (ValueError, TypeError, YAMLError) as error:
        raise InputError(f"the model card's metadata: {first_line(error)}") from error
    for name in data.get("datasets") or ():
        check_repository(str(name), of="datasets=")
