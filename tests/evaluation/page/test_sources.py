"""What the user names, and which results it stands for."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bksdm.errors import InputError
from bksdm.evaluation.page.sources import sources
from bksdm.evaluation.results import Against, write_items, write_results
from tests.evaluation.page.world import DECIDING, PROMPTS, shapes_result, write_evaluation


def test_a_file_its_folder_and_a_folder_above_are_the_same_results(shapes: list[Path]) -> None:
    file, folder, above = shapes[1] / "results.json", shapes[1], shapes[1].parent
    assert [s.result.name for s in sources([str(file)])] == ["runs/base"]
    assert [s.result for s in sources([str(file)])] == [s.result for s in sources([str(folder)])]
    names = [source.result.name for source in sources([str(above), str(file)])]
    assert names == ["shapes", "runs/base", "runs/small", "runs/tiny"]


def test_items_prompts_and_pictures_come_along(shapes: list[Path]) -> None:
    [source] = sources([str(shapes[0])])
    score = source.result.score(DECIDING)
    assert score is not None
    assert score == shapes_result("shapes", 0).score(DECIDING)
    assert len(source.prompts) == PROMPTS
    path = source.picture("000003")
    assert path is not None
    assert path.is_file()


def test_several_models_in_one_file_find_what_lies_beside_their_pictures(
    shapes: list[Path],
) -> None:
    root = shapes[0].parent.parent
    results = [
        replace(shapes_result(name, i), images=f"{folder.relative_to(root)}/images")
        for i, (name, folder) in enumerate([("shapes", shapes[0]), ("runs/base", shapes[1])])
    ]
    write_results(results, root / "all.json")
    both = sources([str(root / "all.json")])
    values = [source.result.score("latent MSE") for source in both]
    assert [score.items for score in values if score] == [
        score.items for result in results if (score := result.score("latent MSE"))
    ]


def test_of_the_same_weights_and_protocol_the_newest_counts(tmp_path: Path) -> None:
    old, new = shapes_result("old name", 0), shapes_result("new name", 0)
    new = replace(new, environment={"date": "2026-11-21T00:00:00+00:00"})
    write_results([new], tmp_path / "new" / "results.json")
    write_results([old], tmp_path / "old" / "results.json")
    for order in (["new", "old"], ["old", "new"]):
        found = sources([str(tmp_path / name) for name in order])
        assert [source.result.name for source in found] == ["new name"]


def test_a_run_s_own_results_come_before_those_below(tmp_path: Path) -> None:
    after, other = shapes_result("student after", 1), shapes_result("runs/a", 1)
    other_protocol = replace(other, protocol={"name": "paired"})
    write_results([after], tmp_path / "results.json")
    write_results([other], tmp_path / "evaluation" / "shapes" / "a" / "results.json")
    write_results([other_protocol], tmp_path / "evaluation" / "paired" / "a" / "results.json")
    found = [(each.result.name, each.protocol) for each in sources([str(tmp_path)])]
    assert found == [("student after", "shapes"), ("runs/a", "paired")]


@pytest.mark.parametrize("made", [False, True])
def test_nothing_there_says_what_to_do(tmp_path: Path, made: bool) -> None:
    place = tmp_path / "runs" / "nobody"
    if made:
        place.mkdir(parents=True)
    with pytest.raises(InputError, match=r"runs/nobody.*bksdm evaluate"):
        sources([str(place)])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_evaluation(shapes_result("shapes", 0), tmp_path / "a", number=0)
    (folder / "items.csv").write_text("score,item,value\nx,y,many\n")
    with pytest.raises(InputError, match=r"items\.csv.*evaluate again"):
        sources([str(folder)])
    write_items((), folder)
    (folder / "prompts.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"prompts\.csv.*evaluate again"):
        sources([str(folder)])
    (folder / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"results\.json.*evaluate again"):
        sources([str(folder)])


def test_without_items_and_prompts_results_are_still_read(tmp_path: Path) -> None:
    folder = write_evaluation(shapes_result("shapes", 0), tmp_path / "a", number=0)
    os.remove(folder / "items.csv")
    os.remove(folder / "prompts.csv")
    [source] = sources([str(folder)])
    assert source.prompts == {}
    assert all(score.items is None for score in source.result.scores)


def test_a_model_s_name_stands_for_its_evaluations_and_their_baseline(tmp_path: Path) -> None:
    root = tmp_path / "evaluation"
    teacher, student = shapes_result("shapes", 0), shapes_result("runs/a", 1)
    student = replace(
        student,
        against=(
            Against(name="shapes", weights=teacher.weights, deciding=DECIDING, comparisons=()),
        ),
    )
    write_results([teacher], root / "shapes" / "shapes-0123abcd" / "results.json")
    write_results([student], root / "shapes" / "runs-a-4567abcd" / "results.json")
    write_results(
        [shapes_result("runs/a-2", 2)], root / "shapes" / "runs-a-2-89ababcd/results.json"
    )
    found = [each.result.name for each in sources(["runs/a"], evaluations=root)]
    assert found == ["shapes", "runs/a"]
    with pytest.raises(InputError, match="runs/b: no results there"):
        sources(["runs/b"], evaluations=root)


@pytest.mark.parametrize("name", ["runs/a-b", "./runs/a-b/"])
def test_models_whose_names_make_one_folder_name_are_told_apart(tmp_path: Path, name: str) -> None:
    for number, other in enumerate(["runs/a-b", "runs-a/b"]):
        folder = tmp_path / "shapes" / f"runs-a-b-0000000{number}"
        write_results([shapes_result(other, number)], folder / "results.json")
    found = [source.result.name for source in sources([name], evaluations=tmp_path)]
    assert found == ["runs/a-b"]
    with pytest.raises(InputError, match="runs/a/b: no results there"):
        sources(["runs/a/b"], evaluations=tmp_path)


def test_of_a_model_that_was_trained_further_the_last_state_counts(tmp_path: Path) -> None:
    old, new, other = (
        replace(
            shapes_result("runs/a" if i < 3 else "runs/b", i),
            environment={"date": f"2026-11-2{i}T00:00:00+00:00"},
        )
        for i in (1, 2, 3)
    )
    root = tmp_path / "shapes"
    folders = [root / "runs-a-00000001", root / "runs-a-00000002", root / "runs-b-00000001"]
    for result, folder in zip((old, new, other), folders, strict=True):
        write_results([result], folder / "results.json")
    found = [source.result.weights for source in sources(["runs/a"], evaluations=tmp_path)]
    assert found == [new.weights]
    found = [source.result.weights for source in sources([str(tmp_path)])]
    assert found == [new.weights, other.weights]
    both = [source.result.weights for source in sources([str(folders[0]), str(folders[1])])]
    assert both == [old.weights, new.weights]


def test_a_trial_on_a_few_prompts_takes_no_evaluation_s_place(tmp_path: Path) -> None:
    whole = shapes_result("runs/a", 1)
    trial = replace(
        whole,
        protocol={**whole.protocol, "prompts": 4},
        environment={"date": "2026-11-21T00:00:00+00:00"},
    )
    write_results([whole], tmp_path / "shapes" / "runs-a-0123abcd" / "results.json")
    write_results([trial], tmp_path / "shapes" / "runs-a-4567abcd" / "results.json")
    [found] = sources(["runs/a"], evaluations=tmp_path)
    assert found.result.protocol["prompts"] == whole.protocol["prompts"]
