"""matplotlib figures as SVG that can stand in a page beside others.

Text stays text in the page's font, colours are the page's (so that they follow light and dark), ids
are unique, and nothing points outside. No pyplot, so no state.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from bksdm.evaluation.page.models import COLOURS

# Stand-ins that matplotlib can draw with, and what the page has in their place.
INK: Final = "#010200"
LINE: Final = "#010201"
PAPER: Final = "#010202"
MUTED: Final = "#010203"
_MODELS: Final = tuple(f"#0103{number:02x}" for number in range(COLOURS))
_OF_THE_PAGE: Final[Mapping[str, str]] = {
    INK: "var(--ink)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    MUTED: "var(--muted)",
    **{colour: f"var(--m{number})" for number, colour in enumerate(_MODELS)},
}
FONT: Final = 11.0  # px, as are all sizes: a user unit of the SVG is 1/72 inch, and shown as 1 px
_STYLE: Final[Mapping[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bksdm",
    "text.parse_math": False,  # a name may have a $ in it
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT + 1,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
}


def model_colour(number: int) -> str:
    """What to draw a model of that colour with."""
    return _MODELS[number]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many pixels."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


@contextmanager
def style() -> Iterator[None]:
    """Draw and write figures within this."""
    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def inline(figure: Figure, *, name: str, title: str, description: str) -> Markup:
    """A figure as an `<svg>` element.

    Args:
        figure: drawn under `style`.
        name: of this figure alone among all of a page; letters, digits and hyphens.
        title: what it is, for those who do not see it.
        description: what it shows, with its numbers.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"#0[0-9a-f]{5}", lambda found: _OF_THE_PAGE.get(found[0], found[0]), text)
    pointed = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    text = re.sub(
        r" id=\"([^\"]+)\"",
        lambda found: f' id="{name}-{found[1]}"' if found[1] in pointed else "",
        text,
    )
    text = re.sub(r"(url\(#|href=\"#)", rf"\1{name}-", text)
    width, height = (72 * inches for inches in figure.get_size_inches())
    head = Markup(
        '<svg class="plot" viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" role="img"'
        ' aria-labelledby="{n}-title {n}-text" xmlns="http://www.w3.org/2000/svg"'
        ' xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{n}-title">{title}</title>'
        '<desc id="{n}-text">{text}</desc>'
    ).format(w=width, h=height, n=name, title=title, text=description)
    return head + Markup(text[text.index(">") + 1 :])


def ident(*parts: object) -> str:
    """A name for `inline` out of parts."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")
