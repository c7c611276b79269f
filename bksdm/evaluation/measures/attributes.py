"""Attribute accuracy in the embedded world: of how many prompts each attribute is right.

Needs no reference pictures and no download. What it says is true of the shapes world only.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from safetensors.torch import load_file
from scipy.stats import binomtest

from bksdm.data.shapes import IMAGE_SIZE, RELATIONS, parse
from bksdm.errors import InputError
from bksdm.evaluation.attributes import ATTRIBUTES, OutlineNet, attribute_scores
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.score import Better, Items, Score
from bksdm.models.source import embedded_folder

ALL: Final = "all attributes right"
ONE, TWO, UNSEEN = (f"{ALL}: {kind}" for kind in ("one object", "two objects", "held out"))


@dataclass(frozen=True, kw_only=True)
class AttributeAccuracy:
    """Share of prompts that are right, whole and by attribute and kind of prompt."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its scores."""
        return tuple(score_names())

    def begin(self, subject: Subject) -> "_Accuracy":
        """Load the scoring network.

        Raises:
            InputError: the model does not make pictures of this world's size.
        """
        pipeline = subject.pipeline
        side = int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
        if side != IMAGE_SIZE:
            raise InputError(
                f"the model makes {side}x{side} pictures; attribute accuracy judges the"
                f" {IMAGE_SIZE}x{IMAGE_SIZE} ones of the embedded world only: choose another"
                " protocol="
            )
        return _Accuracy(load_outline_net())


def load_outline_net() -> OutlineNet:
    """The embedded scoring network."""
    net = OutlineNet()
    net.load_state_dict(load_file(embedded_folder("shapes") / "outline.safetensors"))
    return net.eval()


class _Accuracy:
    def __init__(self, net: OutlineNet) -> None:
        self.net = net
        self.values: Mapping[str, PerPrompt] = {name: PerPrompt() for name in score_names()}

    def update(self, pictures: Pictures) -> None:
        """Judge N pictures."""
        texts = [prompt.text for prompt in pictures.prompts]
        found = attribute_scores(pictures.pixels, texts, self.net)
        rows: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for i, prompt in enumerate(pictures.prompts):
            right = {name: found[name][i].item() for name in ATTRIBUTES}
            for name, value in _named(prompt.text, right).items():
                rows[name].append((prompt.id, value))
        for name, pairs in rows.items():
            ids, values = zip(*pairs, strict=True)
            self.values[name].update(ids, values)

    def scores(self) -> Sequence[Score]:
        """With Wilson's intervals; kinds of prompts that there are none of are left out."""
        every = [share(name, values.items()) for name, values in self.values.items()]
        return [score for score in every if score.n]


def score_names() -> list[str]:
    """In the order in which they are shown."""
    return [ALL, ONE, TWO, UNSEEN, *(name for name in ATTRIBUTES if name != "all")]


def _named(text: str, right: Mapping[str, float]) -> dict[str, float]:
    """The values of a prompt by score. A prompt with two objects of which one is right counts half
    for the objects' attributes; a prompt that is held out counts for nothing else.
    """
    scene = parse(text)
    if scene.held_out:
        return {UNSEEN: right["all"]}
    parts = {name: value for name, value in right.items() if name != "all"}
    if scene.relation not in RELATIONS:
        del parts["relation"]
    return {ALL: right["all"], (TWO if scene.relation else ONE): right["all"], **parts}


def share(name: str, items: Items) -> Score:
    """The mean of values in [0, 1], with Wilson's interval."""
    n = len(items.values)
    value = sum(items.values) / n if n else float("nan")
    interval = binomtest(round(sum(items.values)), n).proportion_ci(method="wilson") if n else None
    return Score(
        name=name,
        value=value,
        better=Better.HIGHER,
        n=n,
        low=float(interval.low) if interval else None,
        high=float(interval.high) if interval else None,
        interval="Wilson",
        items=items,
        percent=True,
    )
