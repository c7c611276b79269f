"""The page without a browser: what is in it, and what never is."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bksdm.evaluation.page.costs import costs_of
from bksdm.evaluation.page.evaluated import by_protocol
from bksdm.evaluation.page.models import models_of
from bksdm.evaluation.page.numbers import DASH
from bksdm.evaluation.page.page import page
from bksdm.evaluation.page.pairs import by_prompt
from bksdm.evaluation.page.samples import evenly, sample_grid
from bksdm.evaluation.page.sources import Source, sources
from bksdm.evaluation.score import Better, Items, Score
from tests.evaluation.page.world import (
    DECIDING,
    HOSTILE,
    PLANS,
    PROMPTS,
    compared,
    shapes_result,
    write_shapes,
)

VOID = {"meta", "link", "img", "br", "use", "line", "rect", "path"}


class Elements(HTMLParser):
    """Start tags with their attributes, texts, and whether all tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def elements(html: str) -> Elements:
    return Elements(html)


def test_it_is_well_formed_and_its_ids_are_unique(elements: Elements) -> None:
    assert elements.open == []
    ids = Counter(attributes["id"] for _, attributes in elements.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    for _, attributes in elements.tags:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
    assert len(elements.named("h1")) == 1


def test_all_references_of_plots_are_to_their_own_parts(html: str) -> None:
    ids = set(re.findall(r' id="([^"]+)"', html))
    pointed = re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", html)
    assert pointed
    assert all((first or second) in ids for first, second in pointed)


def test_it_has_all_sections_in_order(elements: Elements) -> None:
    heads = [attributes.get("id") for attributes in elements.named("h2")]
    wanted = ["verdict", "numbers", "quality", "curves", "samples", "dropped", "repeat"]
    assert heads == wanted
    links = [attributes.get("href") for attributes in elements.named("a")]
    assert [link for link in links if link and link != "#content" and link[0] == "#"] == [
        f"#{name}" for name in wanted
    ]


def test_it_loads_nothing(elements: Elements, html: str) -> None:
    for tag, attributes in elements.tags:
        assert (attributes.get("src") or "data:").startswith("data:"), tag
    assert {link["href"] for link in elements.named("link")} == {"data:,"}
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert not re.search(r"url\((?!#)", html)
    assert not re.search(r"#01\d{4}", html)  # a stand-in of a colour that nothing has replaced


def test_verdicts_say_how_many_prompts(elements: Elements) -> None:
    text = " ".join(" ".join(elements.texts).split()).replace("\N{NO-BREAK SPACE}", " ")
    assert f"not distinguishable with n = {PROMPTS}" in text
    assert f"worse (n = {PROMPTS})" in text
    assert "of the parameters" in text
    assert "no verdict, as CLIP score ViT-g-14 has no value of each prompt" in text


def test_published_rows_are_marked(elements: Elements) -> None:
    assert elements.texts.count("published") == 11
    assert "BK-SDM-Small-2M" in elements.texts
    assert "0.2734" in elements.texts


def test_pictures_say_what_and_whose_they_are(elements: Elements) -> None:
    pictures = elements.named("img")
    assert len(pictures) >= 12 * 4
    assert all(
        re.search(r"background \((shapes|base|small|tiny)\)$", str(p["alt"])) for p in pictures
    )
    assert all(p["class"] == "small" for p in pictures)


def test_a_model_has_one_colour(html: str) -> None:
    found = set(re.findall(r'class="model (m\d)" title="([^"]+)"', html))
    assert len(found) == len({name for _, name in found}) == 6


def results() -> list[Source]:
    """The teacher's and Small's, without files."""
    teacher = shapes_result("shapes", 0)
    small = compared(shapes_result("runs/small", 2), teacher)
    return [Source(each, Path("nowhere"), "nowhere", {}) for each in (teacher, small)]


def test_hostile_names_and_prompts_stay_text(hostile: str) -> None:
    elements = Elements(hostile)
    assert elements.open == []
    assert len(elements.named("script")) == 1
    names = [name for _, attributes in elements.tags for name in attributes]
    assert not [name for name in names if name.startswith("on")]
    assert all(str(image["src"]).startswith("data:") for image in elements.named("img"))
    text = " ".join(elements.texts)
    assert text.count(HOSTILE) > 10
    assert "{{ 7*7 }}" in text


def test_what_was_not_measured_is_a_dash() -> None:
    teacher, small = results()
    nothing = Score(name=DECIDING, value=float("nan"), better=Better.HIGHER, n=0)
    poor = replace(
        small.result, scores=(nothing,), cost=None, speed=None, curves={}, unet={}, plan=None
    )
    html = page([teacher, replace(small, result=poor)])
    row = re.search(r'<th scope="row" data-value="small">.*?</tr>', html, flags=re.S)
    assert row is not None
    cells = re.findall(r"<td data-value=\"([^\"]*)\"[^>]*>(.)", row[0])
    assert len(cells) > 8
    assert set(cells) == {("", DASH)}
    assert "nan" not in " ".join(Elements(html).texts).lower().split()
    assert "neither a block plan nor a U-Net" in html


def test_a_model_alone_makes_a_page() -> None:
    bare = replace(results()[0].result, cost=None, speed=None, images=None, curves={}, scores=())
    html = page([Source(bare, Path("nowhere"), "nowhere", {})])
    assert Elements(html).open == []
    for told in ("compared with nothing", "Nothing to plot", "No pictures were kept"):
        assert told in html


def test_pictures_that_are_gone_are_said_to_be_gone(tmp_path: Path) -> None:
    folders = write_shapes(tmp_path)
    shutil.rmtree(folders[1] / "images")
    (folders[2] / "images" / "000000.png").write_bytes(b"no picture")
    html = page(sources([str(tmp_path)]))
    assert "13 pictures are gone" in html
    assert html.count('<span class="gone">gone</span>') >= 13


def test_large_pictures_are_made_small(tmp_path: Path) -> None:
    html = page(sources([str(folder) for folder in write_shapes(tmp_path, side=320)]))
    sizes = {(image["width"], image["height"]) for image in Elements(html).named("img")}
    assert sizes == {("256", "256")}
    assert "data:image/webp" in html
    assert "image/png" not in html
    assert len(html) < 5_000_000


def test_values_of_several_draws_are_those_of_their_prompt(shapes: list[Path]) -> None:
    [source] = sources([str(shapes[0])])
    draws = Items(("000001/0", "000001/1", "000007/0", "other/0"), (1.0, 3.0, 5.0, 9.0))
    score = replace(source.result.scores[0], items=draws)
    found = by_prompt(replace(source, result=replace(source.result, scores=(score,))), score.name)
    assert found is not None
    assert found.items == Items(("000001", "000007"), (2.0, 5.0))


def test_samples_are_evenly_taken() -> None:
    names = [str(i) for i in range(30)]
    assert evenly(names, 3) == ["0", "10", "20"]
    assert evenly(names, 30) == names
    assert len(set(evenly(names, 12))) == 12


def test_two_runs_of_one_name_are_told_apart() -> None:
    pair = [
        replace(shapes_result(f"{folder}/small", i), weights=str(i) * 64)
        for i, folder in ((1, "a"), (2, "b"))
    ]
    html = page([Source(each, Path("nowhere"), "nowhere", {}) for each in pair])
    assert ">a/small</span>" in html
    assert ">b/small</span>" in html


def test_students_of_two_runs_are_told_apart() -> None:
    result = replace(shapes_result("student after", 1))
    both = [
        Source(replace(result, weights=str(i) * 64), Path("nowhere"), run, {})
        for i, run in ((1, "runs/small/"), (2, "runs/tiny"))
    ]
    html = page(both)
    assert ">small: student after</span>" in html
    assert ">tiny: student after</span>" in html


def test_without_times_of_images_those_of_calls_are_plotted(html: str) -> None:
    assert "Time of an image" in html
    pair = [
        replace(each.result, speed=dict(each.result.speed or {}, images=[])) for each in results()
    ]
    html = page([Source(each, Path("nowhere"), "nowhere", {}) for each in pair])
    assert "Time of an image" not in html
    assert "Time of a U-Net call, ms" in html


def test_every_plan_is_drawn(html: str) -> None:
    assert html.count('<svg class="unet"') == 2 + len(PLANS) + 1


def test_models_that_were_not_made_alike_are_said_not_to_compare(html: str) -> None:
    assert "do not compare" not in html
    teacher, small = results()
    other = dict(small.result.protocol, prompts_sha256="ab")
    settings = {"settings": {"sampling": {"steps": 10, "guidance": 3.0, "batch_size": 3}}}
    both = [teacher, replace(small, result=replace(small.result, protocol=other | settings))]
    text = " ".join(" ".join(Elements(page(both)).texts).split())
    assert "evaluated with different sampling.steps, prompts." in text


def test_pictures_of_other_prompts_share_no_column() -> None:
    teacher, small = results()
    texts = {"000000": "a cat", "000001": "a dog"}
    ours = replace(teacher, prompts=texts)
    theirs = replace(small, prompts=texts | {"000000": "a bird"})
    grid = sample_grid(by_protocol([ours, theirs], models_of([ours, theirs]))[0])
    assert grid is not None
    assert grid.captions == ("a dog",)


def test_the_call_of_an_image_without_guidance_has_one_row() -> None:
    [_, small] = results()
    costs = costs_of(small.result)
    assert costs.call_seconds is not None
    alone = replace(small.result, cost=dict(small.result.cost or {}, rows=1))
    call = costs_of(alone).call_seconds
    assert call is not None
    assert call.median == pytest.approx(costs.call_seconds.median * 0.011 / 0.0197)
