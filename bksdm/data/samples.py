"""Samples by global position: which one comes from the order, everything random about it from
(seed, position). A bad one is replaced, always by the same one, and reported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bksdm.batch import Fault, TextImageBatch
from bksdm.data.decode import BadSampleError, Bytes, decode_caption, decode_latents, decode_picture
from bksdm.data.filesystems import shown
from bksdm.data.order import Order
from bksdm.data.selection import Rows
from bksdm.data.shards import ShardReader
from bksdm.data.transforms import pixel_tensor
from bksdm.errors import InputError, told_plainly


class PartReader(Protocol):
    """Reads the bytes of one part of a sample."""

    def __call__(self, part: str, /) -> Bytes:
        """The bytes of a part, or BadSampleError."""


@dataclass(frozen=True)
class Pictures:
    """Decodes pictures to pixels (3, resolution, resolution) in [-1, 1]."""

    resolution: int

    def tensors(self, read: PartReader, *, flip: bool) -> dict[str, Tensor]:
        """The tensors of one sample, under their names in the batch."""
        image = decode_picture(read("image"))
        return {"pixels": pixel_tensor(image, resolution=self.resolution, flip=flip)}


@dataclass(frozen=True)
class Latents:
    """Reads cached moments (2 C, h, w), and text states (T, D) if they are cached, too: float16.

    Attributes:
        shapes: name in the batch -> the shape that each sample must have.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def tensors(self, read: PartReader, *, flip: bool) -> dict[str, Tensor]:
        """The tensors of one sample, under their names in the batch."""
        found = {}
        for name, shape in self.shapes.items():
            part = "flipped" if flip and name == "moments" else name
            found[name] = torch.from_numpy(decode_latents(read(part), shape=shape))
        return found


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What is made of a sample.

    Attributes:
        tokenizer: of captions.
        kind: pictures or latents.
        flip: mirror half of the pictures.
        caption_dropout: probability of the empty caption.
        empty_text: (T, D), text states of the empty caption; needed where text states are cached.
    """

    tokenizer: Any
    kind: Pictures | Latents
    flip: bool
    caption_dropout: float
    empty_text: Tensor | None = None


class ShardDataset(Dataset[TextImageBatch]):
    """Batches of samples by global position.

    Args:
        reader: of the shards.
        order: of the samples.
        settings: what is made of a sample.
        windows_ahead: of remote shards.
        rows: of each shard those that the order counts, where that is not all of them.
    """

    def __init__(
        self,
        reader: ShardReader,
        order: Order,
        settings: SampleSettings,
        *,
        windows_ahead: int = 1,
        rows: Sequence[Rows] | None = None,
    ) -> None:
        self.rows = rows
        self.reader = reader
        self.order = order
        self.settings = settings
        self.windows_ahead = windows_ahead
        self._ahead: list[int] = []

    def __getitem__(self, position: int) -> TextImageBatch:
        """The sample at a global position, as a batch of one."""
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> TextImageBatch:
        """The samples at global positions, as a batch."""
        with told_plainly():
            return self._batch(positions)

    def sample(self, position: int) -> tuple[int, int]:
        """(shard, row in it) of the sample at a global position."""
        shard, place = self.order.sample(position)
        return shard, place if self.rows is None else int(self.rows[shard][place])

    def _batch(self, positions: Sequence[int]) -> TextImageBatch:
        self._prefetch(positions)
        draws = [self._draw(position) for position in positions]
        samples = [
            self._good_sample(*self.order.sample(position), flip=flip)
            for position, (_, flip, _) in zip(positions, draws, strict=True)
        ]
        return assemble(
            [(tensors, caption) for tensors, caption, _ in samples],
            seeds=[seed for seed, _, _ in draws],
            dropped=[drop for _, _, drop in draws],
            faults=[fault for *_, fault in samples if fault],
            settings=self.settings,
        )

    def _draw(self, position: int) -> tuple[int, bool, bool]:
        """(seed, flip, drop) of a position."""
        return drawn(self.order.sample_seed(position), self.settings)

    def _good_sample(
        self, shard: int, place: int, *, flip: bool
    ) -> tuple[dict[str, Tensor], str, Fault | None]:
        """The sample, or the next good one of its shard: neither the count of samples nor the
        choice ever changes.
        """
        fault = None
        for at, row in self._candidates(shard, place):
            try:
                tensors, caption = decoded(
                    lambda part, at=at, row=row: self.reader.read(at, row, part),
                    self.settings,
                    flip=flip,
                )
            except BadSampleError as error:
                name = self.reader.index.shards[at].name
                fault = fault or Fault(name, self.reader.key(at, row), error.reason)
            else:
                return tensors, caption, fault
        reason = fault.reason if fault else "it is empty"
        if self.rows is not None:
            raise InputError(
                f"data.selection: none of its samples can be read ({reason}); make the shards again"
            )
        raise InputError(
            f"shard {shown(self.reader.index.shards[shard].location)} holds no readable sample"
            f" ({reason}); make it again, or leave it out of data.shards"
        )

    def _candidates(self, shard: int, place: int) -> Iterator[tuple[int, int]]:
        """(shard, row) of a sample and of those that may stand in for it, in turn. Of a shard
        little may be selected: then the next shards' samples come, too.
        """
        if self.rows is None:
            rows = len(self.reader.contents(shard))
            yield from ((shard, row) for row in (*range(place, rows), *range(place)))
            return
        for at in (*range(shard, len(self.rows)), *range(shard)):
            rest = np.roll(self.rows[at], -place if at == shard else 0)
            yield from ((at, int(row)) for row in rest)

    def _prefetch(self, positions: Sequence[int]) -> None:
        if not self.reader.remote:
            return
        ahead = self.order.shards_ahead(positions, windows=1 + self.windows_ahead)
        if ahead != self._ahead:
            self._ahead = ahead
            self.reader.prefetch(ahead)


def drawn(seed: int, settings: SampleSettings) -> tuple[int, bool, bool]:
    """(seed, flip, drop the caption) of a sample: 1 and 62 of the seed's own 63 bits."""
    flip = bool(seed & 1) and settings.flip
    return seed, flip, (seed >> 1) / 2**62 < settings.caption_dropout


def decoded(
    read: PartReader, settings: SampleSettings, *, flip: bool
) -> tuple[dict[str, Tensor], str]:
    """Tensors and caption of one sample.

    Raises:
        BadSampleError: with the reason.
    """
    return settings.kind.tensors(read, flip=flip), decode_caption(read("caption"))


def assemble(
    samples: Sequence[tuple[dict[str, Tensor], str]],
    *,
    seeds: Sequence[int],
    dropped: Sequence[bool],
    faults: Sequence[Fault],
    settings: SampleSettings,
) -> TextImageBatch:
    """One batch of decoded samples."""
    captions = ["" if drop else text for drop, (_, text) in zip(dropped, samples, strict=True)]
    tokens = token_ids(captions, settings.tokenizer)
    stacked = {
        name: torch.stack([tensors[name] for tensors, _ in samples]) for name in samples[0][0]
    }
    if "text" in stacked:
        assert settings.empty_text is not None
        stacked["text"][torch.tensor(dropped)] = settings.empty_text.to(stacked["text"].dtype)
    return TextImageBatch(
        tokens=tokens,
        seeds=torch.tensor(seeds),
        captions=tuple(caption for _, caption in samples),
        faults=tuple(faults),
        **stacked,
    )


def token_ids(captions: Sequence[str], tokenizer: Any) -> Tensor:
    """Captions to token ids (B, T), cut off or padded to what the text encoder takes."""
    ids: Tensor = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def whole(batch: Any) -> Any:
    """What the DataLoader collates: nothing, the dataset has made the batch."""
    return batch
