"""The page's section on routers."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bksdm.errors import InputError
from bksdm.evaluation.page.heatmap import heat_map, place
from bksdm.evaluation.page.page import page
from bksdm.evaluation.page.routing import RoutingRun, routing_runs
from bksdm.evaluation.page.sources import Source, sources
from bksdm.evaluation.results import read_results, write_results
from bksdm.evaluation.routing.analysis import write_analysis
from tests.evaluation.page.test_page import Elements
from tests.evaluation.page.world import HOSTILE, compared, shapes_result
from tests.evaluation.routing.world import analysis


def mixture_page(*, known: bool = True) -> str:
    """Of a teacher and a mixture."""
    teacher = shapes_result("shapes", 0)
    routing = analysis().values() if known else None
    mixture = replace(shapes_result("runs/small", 2), plan=None, experts=2, routing=routing)
    results = [teacher, compared(mixture, teacher)]
    runs = [RoutingRun("runs/way", analysis())]  # of the same router: shown once
    found = [Source(each, Path("nowhere"), "nowhere", {}) for each in results]
    return page(found, runs=runs if known else [])


def told(html: str) -> str:
    return " ".join(" ".join(Elements(html).texts).split())


def test_a_run_of_route_makes_a_page_of_its_own() -> None:
    html = page([], runs=[RoutingRun("runs/way", analysis())])
    elements = Elements(html)
    assert elements.open == []
    assert [attributes["id"] for attributes in elements.named("h2")] == ["routing"]
    text = told(html)
    for words in (
        "Harder prompts get larger experts (Spearman 0.40, 95 % interval 0.10 to 0.60)",
        "From step 10 to 20 25.0% of 48 training captions changed their code.",
        "2 experts; on average over the training prompts",
        "small 0.2\N{MULTIPLICATION SIGN}",
        "The hardest prompts",
        "The easiest prompts",
    ):
        assert words in text
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_a_mixture_is_not_drawn_as_the_teacher() -> None:
    html = mixture_page()
    assert Elements(html).open == []
    assert html.count('<svg class="unet"') == 1
    assert html.count('<svg class="heat"') == 1
    assert "mixture of 2 experts" in told(html)
    assert "What each expert keeps: Routing ." in told(html)
    unknown = mixture_page(known=False)
    assert unknown.count('<svg class="unet"') == 1
    assert 'id="routing"' not in unknown
    assert "do not say what each expert keeps" in told(unknown)


def test_the_drawing_has_a_cell_a_layer_and_expert() -> None:
    known = analysis()
    drawn = heat_map(known, name="heat", colour=1)
    assert drawn is not None
    svg = ET.fromstring(drawn.svg)
    cells = [rect for rect in svg.iter("rect") if rect.find("title") is not None]
    assert len(cells) == 2 * len(known.sites)  # the code without prompts is not drawn
    kept = [share for each in known.experts for share in each.kept]
    assert sum(cell.get("class") == "gone" for cell in cells) == kept.count(0) > 0
    full = [cell for cell in cells if cell.get("fill-opacity") == "1"]
    assert len(full) == kept.count(1)
    names = [svg.find(tag) for tag in ("title", "desc")]
    assert svg.get("aria-labelledby") == " ".join(str(n.get("id")) for n in names if n is not None)
    _, _, width, height = map(float, str(svg.get("viewBox")).split())
    for rect in svg.iter("rect"):
        assert 0 <= float(str(rect.get("x"))) <= width - float(str(rect.get("width")))
        assert 0 <= float(str(rect.get("y"))) <= height - float(str(rect.get("height")))
    nobody = replace(known, experts=known.experts[2:])
    assert heat_map(nobody, name="heat", colour=1) is None


def test_layers_have_short_names() -> None:
    assert place("mid_block.resnets.1") == ("mid", "resnet 1")
    inside = "up_blocks.1.attentions.2.transformer_blocks"
    assert place(f"{inside}.0.attn2") == ("up 1", "cross-attention 2")
    assert place(f"{inside}.3.ff") == ("up 1", "feed-forward 2.3")
    assert place("a stranger's") == ("", "a stranger's")


def test_hostile_prompts_and_words_stay_text() -> None:
    known = replace(analysis(text=HOSTILE), sites=(HOSTILE, *analysis().sites[1:]))
    html = page([], runs=[RoutingRun(HOSTILE, known)])
    elements = Elements(html)
    assert elements.open == []
    assert len(elements.named("script")) == 1
    assert not elements.named("img")
    assert " ".join(elements.texts).count(HOSTILE) > 20


def test_names_of_routers_are_told_from_others(tmp_path: Path) -> None:
    folder = tmp_path / "way"
    (folder / "router").mkdir(parents=True)
    (folder / "routing.json").write_text("{}")
    with pytest.raises(InputError, match=r"analysis\.json: not there"):
        routing_runs([str(folder)])
    write_analysis(folder / "analysis.json", analysis())
    runs, others = routing_runs(["shapes", str(folder)])
    assert runs == [RoutingRun(str(folder), analysis())]
    assert others == ["shapes"]


def test_results_keep_what_a_router_does(tmp_path: Path) -> None:
    result = replace(shapes_result("mix", 2), experts=2, routing=analysis().values())
    path = tmp_path / "results.json"
    write_results([result], path)
    [found] = read_results(path)
    assert found.experts == 2
    assert 'id="routing"' in page(sources([str(path)]))
    write_results([replace(result, routing={"format": 1})], path)
    with pytest.raises(InputError, match=r"results\.json: what its results say of the router"):
        page(sources([str(path)]))
