"""The captions of a data set, each different text once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bksdm.data.decode import BadSampleError, decode_caption
from bksdm.data.index import ShardIndex
from bksdm.data.shards import ShardReader

BAD: Final = -1


@dataclass(frozen=True, eq=False)
class Captions:
    """What the samples of a data set say.

    Attributes:
        index: fingerprint of the data set's index.
        texts: each different one once, in the order in which they are met.
        of: (samples,), int64: of each sample, in the index's order, the place of its text in
            `texts`; `BAD` for one that cannot be read.
    """

    index: str
    texts: tuple[str, ...]
    of: npt.NDArray[np.int64]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Samples of each text."""
        return np.bincount(self.of[self.of != BAD], minlength=len(self.texts)).astype(np.int64)

    def some(self, count: int) -> Sequence[str]:
        """So many of the texts at most, evenly spaced: always the same ones."""
        places = np.linspace(0, len(self.texts) - 1, min(count, len(self.texts)))
        return [self.texts[place] for place in places.round().astype(int)]


def read_captions(index: ShardIndex, reader: ShardReader) -> Captions:
    """All captions of a data set; pictures are not read."""
    places: dict[str, int] = {}
    of = np.full(index.samples, BAD, dtype=np.int64)
    number = 0
    for shard, count in enumerate(index.counts):
        for row in range(count):
            try:
                text = decode_caption(reader.read(shard, row, "caption"))
            except BadSampleError:
                pass
            else:
                of[number] = places.setdefault(text, len(places))
            number += 1
    return Captions(index.fingerprint, tuple(places), of)
