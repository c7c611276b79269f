"""CLIP score: how near a picture is to its prompt, by a CLIP.

Hessel et al., arXiv 2104.08718, without their factor 2.5 and without clipping at 0: the mean cosine
that papers on Stable Diffusion print. Values of two backbones are not comparable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.clip import Clip, load_clip
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.measures.weights import Place
from bksdm.evaluation.score import Better, Score


@dataclass(frozen=True, kw_only=True)
class ClipScore:
    """The score by one backbone.

    Attributes:
        name: of the score; says the backbone.
        weights: a folder or a Hub id, in transformers' layout or open_clip's.
        revision: on the Hub.
    """

    name: str
    weights: str
    revision: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (self.name,)

    def begin(self, subject: Subject) -> "_ClipScore":
        """Load the network.

        Raises:
            InputError: it is not there.
        """
        return _ClipScore(self, load_clip(Place(self.weights, self.revision), subject.device))


class _ClipScore:
    def __init__(self, settings: ClipScore, clip: Clip) -> None:
        self.settings = settings
        self.clip = clip
        self.values = PerPrompt()

    def update(self, pictures: Pictures) -> None:
        """Take in N pictures."""
        images = self.clip.pictures(pictures.pixels)
        texts = self.clip.texts([prompt.text for prompt in pictures.prompts])
        self.values.update([prompt.id for prompt in pictures.prompts], (images * texts).sum(-1))

    def scores(self) -> Sequence[Score]:
        """The mean cosine."""
        details = {
            "weights": Place(self.settings.weights, self.settings.revision).words,
            "weights_sha256": self.clip.sha256,
            "input": self.clip.input.words,
        }
        return [self.values.score(self.settings.name, Better.HIGHER, details=details)]
