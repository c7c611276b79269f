"""bksdm route."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import yaml
from omegaconf import DictConfig

from bksdm import expected
from bksdm.cli.analysing import analyse
from bksdm.cli.choosing import choose, refuse_chosen
from bksdm.cli.config import built, plain
from bksdm.cli.routed import Routed, write_routed
from bksdm.cli.running import Parts, Run, made_of, running, trained
from bksdm.cli.same_run import check_same_run
from bksdm.cli.student import whole_resolution
from bksdm.data.captions import Captions
from bksdm.data.datamodule import ShardDataModule
from bksdm.errors import InputError
from bksdm.export.pipeline import best_device
from bksdm.gates.budget import Budget
from bksdm.gates.router import Router
from bksdm.models.encoder import Encoder, EncoderSettings
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import this_process
from bksdm.surgery.sites import prunable_sites
from bksdm.training.checkpoint import load_router
from bksdm.training.ema import Ema
from bksdm.training.module import StepSettings
from bksdm.training.optim import OptimizerSettings
from bksdm.training.routing import Routing
from bksdm.training.routing_settings import RoutingSettings, check_target
from bksdm.training.run import Start, start_of
from bksdm.training.saving import CheckpointSettings
from bksdm.training.speed import SpeedSettings

_PACKAGES: Final = ("bksdm", "torch", "diffusers", "transformers", "pytorch-lightning")
_TO_STANDARDISE: Final = 4096  # captions whose embeddings are looked at


def run(config: DictConfig) -> int:
    """Train router and codes, then route the captions; each part is skipped if it is done."""
    if "worth" in config.method:
        return choose(config)
    if "_target_" not in config.method:  # what a student is trained with is no object
        raise InputError("method: that trains a student; use `bksdm train`, or method=aptp")
    built(config.method, RoutingSettings)
    if config.trainer.strategy == "fsdp2":
        raise InputError("trainer.strategy=fsdp2: a router is whole in each process; use ddp")
    expected.switch("analysis", config.analysis)
    return running("route", config, _trained, _finish)


def _trained(run: Run) -> tuple[int, Routed | None]:
    """Train what is not trained yet; the exit code, and what is left to do."""
    config, folder = run.config, run.folder
    values = run.peers.each(lambda: plain(config))
    run.peers.decided(lambda: refuse_chosen(folder))
    run.peers.decided(lambda: check_same_run(folder, values))
    start = run.peers.decided(lambda: start_of(folder))
    source = run.peers.each(lambda: built(config.teacher, TeacherSource))
    run.peers.decided(lambda: _check_warmup(run, start))
    done = start.steps >= run.trainer.max_steps
    wanted = [folder.routing, *[folder.analysis] * bool(config.analysis)]
    if done and all(made_of(start, path) for path in wanted):
        run.say(f"{folder.path} is finished: {start.steps} steps; router in {folder.router}")
        return 0, None
    teacher = run.peers.each(lambda: load_teacher(source))
    parts, captions = run.peers.each(lambda: _parts(run, teacher))
    module = parts.module
    assert isinstance(module, Routing)

    def standardise() -> None:
        if module.settings.standardise and not start.steps:
            _to_device(run, module.encoder)
            _standardise(module.router, module.encoder, captions)

    code = 0
    if not done:
        if config.speed.compile is not None:
            run.say(f"speed.compile={config.speed.compile} is left out: gates differ by the step")
        code = trained(run, parts, start, values, before=standardise)
    if code:
        return code, None
    at = start.checkpoint if done else folder.checkpoint
    assert at is not None
    return 0, Routed(module, captions, at, asdict(_encoder(config)), parts.data)


def _check_warmup(run: Run, start: Start) -> None:
    """A warm-up that is a share of all steps must not begin again in a run that is made longer.

    Raises:
        InputError: it would.
    """
    if not run.folder.begun:
        return
    settings = built(run.config.method, RoutingSettings)
    before = yaml.safe_load(run.folder.config.read_text())["trainer"]["max_steps"]
    now = run.trainer.max_steps
    if settings.warmup_steps(before) <= start.steps < settings.warmup_steps(now):
        raise InputError(
            f"trainer.max_steps={now}: at step {start.steps} the warm-up would begin again, as"
            f" method.warmup={settings.warmup:g} is a share of all; use less, or another name="
        )


def _finish(run: Run, rest: Routed) -> None:
    load_router(rest.checkpoint, rest.module.router)
    _to_device(run, rest.module.encoder)
    print(write_routed(run.folder, rest), flush=True)
    if run.config.analysis:
        print(analyse(run.folder, rest))


def _encoder(config: DictConfig) -> EncoderSettings:
    return built(config.encoder, EncoderSettings)  # type: ignore[type-abstract]


def _to_device(run: Run, encoder: Encoder) -> None:
    """Many captions are embedded, also where nothing is trained any more."""
    if run.trainer.gpu:
        encoder.network.to(best_device(this_process()))


def _standardise(router: Router, encoder: Encoder, captions: Captions) -> None:
    found = encoder.embed(captions.some(_TO_STANDARDISE)).to(router.mean.device)
    router.standardise(found.mean(0), found.std(0, correction=0))


def _parts(run: Run, teacher: Teacher) -> tuple[Parts, Captions]:
    config = run.config
    settings = built(config.method, RoutingSettings)
    encoder = _encoder(config).load(teacher)
    resolution = whole_resolution(config, teacher)
    data = built(
        config.data, ShardDataModule, seed=run.seed, teacher=teacher, resolution=resolution
    )
    data.accumulation(run.peers.process.world)
    budget = Budget.of(
        teacher.unet.config,
        prunable_sites(teacher.unet),
        resolution // teacher.latent_factor,
        tokens=teacher.tokenizer.model_max_length,
        counting=settings.counting,
    )
    check_target(settings.target, budget)
    captions = data.captions()
    if settings.experts > len(captions.texts):
        raise InputError(
            f"method.experts={settings.experts}: expected at most {len(captions.texts)}, as the"
            " shards have so many different captions"
        )
    parts = Parts(
        data=data,
        module=_module(run, teacher, encoder, budget, settings, data.fingerprint),
        ema=Ema(decay=config.ema_decay),
        samples=None,
        checkpoints=built(config.checkpoint, CheckpointSettings),
        done="routed",
    )
    return parts, captions


def _module(
    run: Run,
    teacher: Teacher,
    encoder: Encoder,
    budget: Budget,
    settings: RoutingSettings,
    data: dict[str, Any],
) -> Routing:
    config = run.config
    router = Router(
        budget.sites,
        experts=settings.experts,
        width=encoder.width,
        relaxation=settings.relaxation,
        seed=run.seed,
    )
    read = {"encoder": encoder.identity, "gates": budget.sites.gates, "experts": settings.experts}
    return Routing(
        router,
        teacher,
        encoder=encoder,
        budget=budget,
        settings=settings,
        step=StepSettings(
            optimizer=built(config.optimizer, OptimizerSettings),
            min_snr_gamma=settings.min_snr_gamma,
            gradient_clip=settings.gradient_clip or float("inf"),
            speed=built(config.speed, SpeedSettings),
        ),
        steps=run.trainer.max_steps,
        seed=run.seed,
        identity={
            "router": read,
            "teacher": teacher.source.identity,
            "data": data,
            "versions": {name: version(name) for name in _PACKAGES},
        },
    )
