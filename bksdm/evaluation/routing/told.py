"""An analysis in words, as the terminal and the page say them."""

from collections.abc import Iterator

from bksdm.evaluation.routing.analysis import Analysis
from bksdm.evaluation.routing.drift import Drift
from bksdm.evaluation.routing.hardness import Hardness

_SHOWN = 4  # words of an expert


def lines(analysis: Analysis) -> list[str]:
    """A few lines for the terminal."""
    return list(_lines(analysis))


def _lines(analysis: Analysis) -> Iterator[str]:
    told = [
        f"{each.expert}: {', '.join(f'{word.word} {word.lift:.2g}x' for word in most)}"
        for each in analysis.experts
        if (most := each.words.most[:_SHOWN])
    ]
    if told:
        yield f"words that experts get more often than others do: {'; '.join(told)}"
    yield correlation(analysis.hardness)
    if analysis.drift:
        yield drift(analysis.drift[-1])


def correlation(hardness: Hardness) -> str:
    """Whether harder prompts get larger experts."""
    found, of = hardness.correlation, f"{hardness.prompts:,} validation prompts"
    if found is None:
        return (
            f"Whether harder prompts get larger experts cannot be said: {of}, and they or what they"
            " get are too few or all the same."
        )
    numbers = f"(Spearman {found.value:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f})"
    if found.low > 0:
        return f"Harder prompts get larger experts {numbers}, over {of}."
    if found.high < 0:
        return f"Harder prompts get smaller experts {numbers}, over {of}."
    return f"Whether harder prompts get larger experts is open {numbers}, over {of}."


def drift(found: Drift) -> str:
    """How many prompts went elsewhere."""
    return (
        f"From step {found.earlier:,} to {found.later:,} {found.share:.1%} of {found.prompts:,}"
        " training captions changed their code."
    )
