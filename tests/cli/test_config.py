"""The config tree is the table of contents of the program, so all of it is composed."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bksdm.conf
import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bksdm.cli.config import built
from bksdm.cli.main import VERBS
from bksdm.errors import InputError
from bksdm.evaluation.protocol import Protocol
from bksdm.training.routing_settings import RoutingSettings

CONF = Path(bksdm.conf.__file__).parent
GROUPS = {
    folder.name: sorted(f.stem for f in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir()
}
GIVEN_BY_CODE = {"seed", "teacher"}  # what `cli.train` adds to the data's settings
VERB_OF = {  # that has the group, or the option; train has the others
    "source": "prepare",
    "reference": "prepare",
    "criterion": "prune",
    "calibration": "prune",
    "encoder": "route",
    "method/aptp": "route",
    "method/aptp_published": "route",
    "optimizer/adamw_router": "route",
}
OPTIONS = [
    (group, name) for group, names in GROUPS.items() for name in names if group != "__pycache__"
]


def composed(verb: str, *overrides: str) -> DictConfig:
    with initialize_config_module("bksdm.conf", version_base="1.3"):
        config = compose(verb, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


def noted(experiment: str) -> str:
    """The verb of an experiment, from its lab note."""
    note = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()[1]
    return note.removeprefix("# bksdm ").split()[0]


def targets(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from targets(value)


def protocol(name: str, *overrides: str) -> Protocol:
    path = ["protocol.prompts.path=prompts.txt"] * (name in ("paired", "preference"))
    config = composed("evaluate", f"protocol={name}", *path, *overrides)
    return built(config.protocol, Protocol)


@pytest.mark.parametrize("name", [each for each in GROUPS["protocol"] if each != "none"])
def test_a_protocol_decides_on_a_score_of_its_own(name: str) -> None:
    """Refused while it is built: not when all pictures are made and measured."""
    decides = protocol(name).decide
    with pytest.raises(InputError, match=f"decide='SSIM' is none of its scores: .*{decides}"):
        protocol(name, "protocol.decide=SSIM")


def test_a_score_that_decides_cannot_be_left_out_or_taken_twice() -> None:
    with pytest.raises(InputError, match=r"decide='CLIP score ViT-g-14' is none of .*: FID, Incep"):
        protocol("coco30k_bksdm", "protocol.measures.clip_score=null")
    again = "protocol.measures.again={_target_: bksdm.evaluation.measures.similarity.Ssim}"
    with pytest.raises(InputError, match="SSIM to baseline is measured twice"):
        protocol("paired", f"+{again}")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb: str) -> None:
    assert composed(verb)


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_every_target_binds(group: str, name: str) -> None:
    usual = VERB_OF.get(f"{group}/{name}", VERB_OF.get(group, "train"))
    verb = noted(name) if group == "experiment" else usual
    config = composed(verb, f"{group}={name}")
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    found = list(targets({key: value for key, value in values.items() if key != "hydra"}))
    assert found
    for node in found:
        module, _, attribute = node["_target_"].rpartition(".")
        assert module.startswith(("bksdm.", "pytorch_lightning.loggers")), node["_target_"]
        target = getattr(importlib.import_module(module), attribute)
        given = {key: value for key, value in node.items() if key != "_target_"}
        extra = dict.fromkeys(GIVEN_BY_CODE) if attribute == "ShardDataModule" else {}
        inspect.signature(target).bind(**given, **extra)


def test_the_published_recipe_is_the_published_recipe() -> None:
    config = composed("train", "teacher=sd14", "experiment=bk_sdm")
    assert dict(config.method.weights) | {"_target_": 0} == {
        "_target_": 0,
        "task": 1,
        "output_kd": 1,
        "feature_kd": 1,
    }
    assert not config.method.normalise_features
    assert config.method.min_snr_gamma is None
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (5e-5, 1e-2)
    assert list(config.optimizer.betas) == [0.9, 0.999]
    assert (config.optimizer.schedule, config.optimizer.warmup_steps) == ("constant", 0)
    assert (config.data.global_batch, config.trainer.max_steps) == (256, 50_000)
    assert (config.data.flip, config.data.caption_dropout, config.data.resolution) == (
        True,
        0.0,
        None,
    )
    assert (config.ema_decay, config.method.gradient_clip) == (0.9999, 1.0)


def test_the_published_router_is_the_published_router() -> None:
    config = composed("route", "experiment=route_aptp", "data.shards=a", "data.validation_shards=b")
    method = built(config.method, RoutingSettings)
    weights = {"denoising": 1, "output_kd": 0.2, "block_kd": 0.2, "resource": 2, "contrastive": 100}
    assert vars(method.weights) == {**weights, "spread": 0.1, "largest": 0.1}
    assert (method.target, method.warmup_steps(config.trainer.max_steps)) == (0.6, 500)
    assert (method.position, method.counting, method.link) == ("norm2", "published", None)
    assert (method.hard, method.noise, method.noisy_routing) == (False, True, True)
    assert (method.sinkhorn.epsilon, method.sinkhorn.iterations) == (0.05, 3)
    assert (method.relaxation.temperature, method.relaxation.offset) == (0.4, 3.0)
    assert (config.trainer.max_steps, config.data.resolution) == (5000, 256)
    assert config.optimizer.lr == pytest.approx(2e-4 * config.data.global_batch**0.5, rel=0.02)
    assert (config.optimizer.weight_decay, config.ema_decay, config.data.caption_dropout) == (
        0,
    ) * 3


def test_every_experiment_opens_with_a_lab_note() -> None:
    for path in (CONF / "experiment").glob("*.yaml"):
        head = path.read_text().splitlines()[1]
        assert head.startswith(("# bksdm train", "# bksdm prune", "# bksdm route")), path


def test_every_option_says_what_it_is() -> None:
    for path in CONF.rglob("*.yaml"):
        assert "#" in path.read_text(), path
