"""Which words an expert's prompts have more often, or less often, than prompts in general."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

SMOOTHING: Final = 10.0  # prompts with a word that are added to those found, and to those expected
LEAST: Final = 20  # prompts that have a word; of rarer ones a lift says nothing
_TELLING: Final = 1.05  # what lies nearer to 1 tells nothing apart
_WORD: Final = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}-][^\W\d_]+)*")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word in an expert's prompts.

    Attributes:
        word: in lower case.
        lift: P(word | expert) / P(word), the rarer the word, the more drawn to 1.
        share: of the expert's prompts that have it, 0 to 1.
    """

    word: str
    lift: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Words:
    """What tells an expert's prompts from others.

    Attributes:
        most: words of a lift well above 1, the highest first.
        fewest: words of a lift well below 1, the lowest first.
    """

    most: tuple[Word, ...] = ()
    fewest: tuple[Word, ...] = ()


def words_of(text: str) -> set[str]:
    """The different words of a text, in lower case."""
    return set(_WORD.findall(text.lower()))


def word_lifts(
    texts: Sequence[str],
    routes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    *,
    experts: int,
    top: int = 8,
    least: int = LEAST,
) -> list[Words]:
    """Of each expert the words of the highest and of the lowest lift.

    Args:
        texts: U different prompts.
        routes: (U,), the expert of each; a negative one is left out.
        counts: (U,), how often each occurs.
        experts: N.
        top: words of each kind at most.
        least: prompts that must have a word.

    Returns:
        N of them; empty ones for an expert without prompts.
    """
    table: dict[str, npt.NDArray[np.int64]] = {}
    prompts = np.zeros(experts, dtype=np.int64)
    for text, route, count in zip(texts, routes.tolist(), counts.tolist(), strict=True):
        if route < 0:
            continue
        prompts[route] += count
        for word in words_of(text):
            table.setdefault(word, np.zeros(experts, dtype=np.int64))[route] += count
    common = sorted(word for word, found in table.items() if found.sum() >= least)
    return [
        _words(expert, common, table, prompts, top=top) if prompts[expert] else Words()
        for expert in range(experts)
    ]


def _words(
    expert: int,
    common: Sequence[str],
    table: dict[str, npt.NDArray[np.int64]],
    prompts: npt.NDArray[np.int64],
    *,
    top: int,
) -> Words:
    own, found = float(prompts[expert]), []
    for word in common:
        expected = float(table[word].sum()) * own / float(prompts.sum())
        having = float(table[word][expert])
        lift = (having + SMOOTHING) / (expected + SMOOTHING)
        found.append(Word(word=word, lift=lift, share=having / own))
    found.sort(key=lambda each: -each.lift)  # stable: words of one lift by the alphabet
    most = tuple(each for each in found[:top] if each.lift >= _TELLING)
    fewest = tuple(each for each in found[: -top - 1 : -1] if each.lift <= 1 / _TELLING)
    return Words(most=most, fewest=fewest)
