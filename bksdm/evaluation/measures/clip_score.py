"""CLIP score: how near a picture is to its prompt, by a CLIP.

Hessel et al., arXiv 2104.08718, without their factor 2.5 and without clipping at 0: the mean cosine
that papers on Stable Diffusion print. Values of two backbones are not comparable.
"""

from dataclasses import dataclass

from bksdm.evaluation.measure import Subject
from bksdm.evaluation.measures.clip import PromptCosine, load_clip
from bksdm.evaluation.measures.weights import Place


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

    def begin(self, subject: Subject) -> PromptCosine:
        """Load the network.

        Raises:
            InputError: it is not there.
        """
        place = Place(self.weights, self.revision)
        return PromptCosine(load_clip(place, subject.device), self.name, place.words)
