"""A mixture's folder: put together, read back, and what may have happened to it since."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from bksdm.errors import InputError
from bksdm.evaluation.cost.image_cost import image_cost, parts_of_pipeline
from bksdm.evaluation.fingerprint import part_hashes
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import from_texts
from bksdm.export.folder import export_student
from bksdm.export.mixture import TrainedExpert, export_mixture
from bksdm.export.mixture_folder import MIXTURE, load_mixture, read_mixture_record
from bksdm.export.mixture_pipeline import MixturePipeline
from bksdm.export.pipeline import assemble, folder_guidance, load_pipeline
from bksdm.export.router import SavedRouter, write_router
from bksdm.gates.deploy import even_offsets
from bksdm.gates.relax import Relaxation
from bksdm.gates.router import Router
from bksdm.models.cost import parameter_count
from bksdm.models.encoder import Encoder, TeacherText
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.surgery.narrow import narrow
from bksdm.surgery.sites import prunable_sites
from tests.surgery.test_width import some_plan

TEXTS = ["a red circle", "a blue square", "a small green cross", "a big white triangle"]
SAMPLING = Sampling(steps=2, guidance=2.0, batch_size=2)
CODES = (0, 2)  # no prompt goes to code 1


@pytest.fixture(scope="module")
def small(sd1_folder: Path) -> Teacher:
    return load_teacher(TeacherSource(name="tiny", path=str(sd1_folder)))


@pytest.fixture(scope="module")
def route(small: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bksdm route` leaves behind, of a router that nobody has trained."""
    folder = tmp_path_factory.mktemp("route") / "r"
    sites, encoder = prunable_sites(small.unet), TeacherText().load(small)
    router = Router(sites, experts=3, width=encoder.width, relaxation=Relaxation(), seed=1)
    found = encoder.embed(TEXTS)
    router.standardise(found.mean(0), found.std(0))
    router.offsets[list(CODES)] = even_offsets(router.scores(found)[:, CODES], torch.ones(4))
    router.offsets[1] = -torch.inf
    plans = []
    for code in range(3):
        own = folder / "experts" / str(code)
        own.mkdir(parents=True)
        (own / "plan.json").write_text(some_plan(sites, seed=code).to_json())
        plans.append(f"experts/{code}" if code in CODES else None)
    write_router(
        folder / "router",
        SavedRouter(
            router=router,
            encoder={**encoder.identity, "settings": asdict(TeacherText())},
            teacher=small.source.identity,
            plans=tuple(plans),
        ),
    )
    return folder


@pytest.fixture(scope="module")
def experts(small: Teacher, tmp_path_factory: pytest.TempPathFactory) -> list[TrainedExpert]:
    folder, sites = tmp_path_factory.mktemp("experts"), prunable_sites(small.unet)
    made = []
    for code, share in zip(CODES, (0.25, 0.75), strict=True):
        plan = some_plan(sites, seed=code)
        export_student(small, narrow(small.unet, plan), folder / str(code), plan=plan)
        made.append(TrainedExpert(code=code, folder=folder / str(code), share=share))
    return made


@pytest.fixture(scope="module")
def whole(
    route: Path,
    experts: list[TrainedExpert],
    small: Teacher,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("mixture") / "mixture"
    export_mixture(route, experts, small, folder, guidance=2.0)
    return folder


@pytest.fixture
def mixture(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "mixture"))


def drawn(pipeline: MixturePipeline, texts: list[str]) -> dict[str, torch.Tensor]:
    prompts = [prompt for prompt in from_texts(TEXTS, seed=3) if prompt.text in texts]
    return {item.prompt.text: item.latents for item in generate(pipeline, prompts, SAMPLING)}


def test_it_draws_as_its_experts_do(whole: Path, small: Teacher) -> None:
    pipeline = load_pipeline(whole)
    assert isinstance(pipeline, MixturePipeline)
    routes = pipeline.route(TEXTS)
    assert set(routes) == set(CODES)
    assert [pipeline.route([text])[0] for text in TEXTS] == routes
    found, sites = drawn(pipeline, TEXTS), prunable_sites(small.unet)
    for text, code in zip(TEXTS, routes, strict=True):
        expert = assemble(small, narrow(small.unet, some_plan(sites, seed=code)))
        torch.testing.assert_close(found[text], drawn(expert, [text])[text], atol=1e-4, rtol=1e-4)
    assert folder_guidance(whole) == 2.0


def test_a_prompt_goes_the_same_way_in_half_precision(whole: Path) -> None:
    """Text states in bfloat16 differ by a hundredth, more than prompts may be from a border."""
    pipeline, found = load_mixture(whole), []
    texts = [f"a {size} {TEXTS[i % 4][2:]}" for i, size in enumerate(map(str, range(40)))]
    routed = pipeline.route(texts)
    assert pipeline.to(torch.bfloat16).route(texts) == routed
    embed = Encoder.embed

    def kept(encoder: Encoder, captions: Sequence[str]) -> torch.Tensor:
        found.append(embed(encoder, captions))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "embed", kept)
        pipeline.route(TEXTS)
        pipeline.to(torch.float32)
        load_mixture(whole).route(TEXTS)
    assert found[0].equal(found[1])


def test_an_expert_with_a_text_encoder_of_its_own(
    route: Path, experts: list[TrainedExpert], small: Teacher, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(experts[0].folder, tmp_path / "own"))
    pruned = CLIPTextModel.from_pretrained(own / "text_encoder")
    pruned.get_parameter("final_layer_norm.weight").data[0] = 0
    pruned.save_pretrained(own / "text_encoder")
    ours, out = [replace(experts[0], folder=own), experts[1]], tmp_path / "mixture"
    with pytest.raises(InputError, match="a text encoder of its own"):
        export_mixture(route, ours, small, out, guidance=None)
    assert not out.exists()


def test_costs_are_the_mean_over_the_prompts(whole: Path) -> None:
    pipeline = load_mixture(whole)
    cost = image_cost(parts_of_pipeline(pipeline), steps=2, guidance=2.0).unet.total
    record = read_mixture_record(whole)
    assert cost.macs == round(record.expected("macs"))
    sizes = [parameter_count(pipeline.unet.expert(code)) for code in CODES]
    assert cost.parameters == round(0.25 * sizes[0] + 0.75 * sizes[1])
    assert record.typical == 2


def test_another_expert_is_another_fingerprint(mixture: Path) -> None:
    before = part_hashes(load_mixture(mixture))
    assert before == part_hashes(load_mixture(mixture))
    values = json.loads((mixture / MIXTURE).read_text())
    values["experts"][0]["weights"] = "0" * 16
    (mixture / MIXTURE).write_text(json.dumps(values))
    assert part_hashes(load_mixture(mixture))["unet"] != before["unet"]


def swap(folder: Path) -> None:
    one, other = (folder / "experts" / str(code) / "unet" / "plan.json" for code in CODES)
    shutil.copy(one, other)


def change_encoder(folder: Path) -> None:
    path = folder / "router" / "router.json"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "f', 1))


BROKEN: dict[str, Callable[[Path], object]] = {
    "expert 2 is missing": lambda folder: shutil.rmtree(folder / "experts" / "2"),
    "is not the plan of expert 2": swap,
    "embeddings of teacher_text with weights": change_encoder,
    "not of this version": lambda folder: (folder / MIXTURE).write_text("{}"),
    "no experts": lambda folder: (folder / MIXTURE).write_text(
        '{"format": 1, "teacher": {}, "experts": []}'
    ),
    "unknown scheduler class": lambda folder: (
        folder / "scheduler" / "scheduler_config.json"
    ).write_text("{}"),
    "no router.json": lambda folder: (folder / "router" / "router.json").unlink(),
    "mixture .*: ": lambda folder: shutil.rmtree(folder / "vae"),
}


@pytest.mark.parametrize("told", BROKEN)
def test_what_is_broken_is_told(told: str, mixture: Path) -> None:
    BROKEN[told](mixture)
    with pytest.raises(InputError, match=told):
        load_pipeline(mixture)


def test_damaged_weights_are_told_when_the_expert_is_asked(mixture: Path) -> None:
    (weights,) = (mixture / "experts" / "0" / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-64])
    pipeline = load_mixture(mixture)
    with pytest.raises(InputError, match="safetensors"):
        pipeline.unet.expert(0)


def test_other_weights_of_the_same_plan_are_told(mixture: Path) -> None:
    """Or its pictures would pass for those of the mixture that was exported."""
    (weights,) = (mixture / "experts" / "0" / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    pipeline = load_mixture(mixture)
    pipeline.unet.expert(2)
    with pytest.raises(InputError, match="has other weights than expert 0 had"):
        pipeline.unet.expert(0)


def test_a_missing_or_foreign_expert_is_refused(
    route: Path, experts: list[TrainedExpert], small: Teacher, tmp_path: Path
) -> None:
    out = tmp_path / "mixture"
    with pytest.raises(InputError, match="no trained expert of code 2"):
        export_mixture(route, experts[:1], small, out, guidance=None)
    changed = [experts[0], TrainedExpert(code=2, folder=experts[0].folder, share=0.5)]
    with pytest.raises(InputError, match="cut to another plan"):
        export_mixture(route, changed, small, out, guidance=None)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not written by bksdm"):
        export_mixture(route, experts, small, out, guidance=None)
    assert (out / "mine.txt").read_text() == "kept"
