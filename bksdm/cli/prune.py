"""bksdm prune."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from omegaconf import DictConfig, OmegaConf
from transformers import CLIPTextConfig, CLIPTextModel

from bksdm import expected
from bksdm.cli.config import built, switch, task_overrides
from bksdm.cli.pruning import check_calibration, curves_of, method_of, selection_of, with_seed
from bksdm.cli.sweeping import run_search, run_sweep
from bksdm.cli.to_prune import ToPrune, to_prune
from bksdm.errors import InputError
from bksdm.evaluation.gallery import slug
from bksdm.evaluation.pruning.calibration import CalibrationSettings
from bksdm.evaluation.pruning.grid import Configuration, Point, label_of
from bksdm.evaluation.pruning.tables import accounting_table
from bksdm.evaluation.pruning.version import prune_pipeline, refuse_empty, sizes_of
from bksdm.export.pipeline import best_device
from bksdm.export.pruned import PrunedSettings, as_rounded, export_pruned
from bksdm.export.sparse import SPARSITY, folder_sparsity
from bksdm.export.whole import refuse_others
from bksdm.models.cost import parameter_count
from bksdm.models.source import TeacherSource, architecture
from bksdm.surgery.sparse.accounting import Sizes, accounting, planned
from bksdm.surgery.sparse.layers import prunable
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import COMPONENTS, SparsityPlan


def run(config: DictConfig) -> int:
    """Prune one model, many, or search for the best."""
    expected.one_of("find", config.find, (None, "best"))
    if config.max_loss is not None:
        expected.number("max_loss", config.max_loss, least=0)
    point = Point(text_encoder=config.text_encoder, unet=config.unet)
    if config.find and config.curves:
        raise InputError("find=best and curves=: expected one of them; leave experiment= out")
    if point.pruned and (config.find or config.curves):
        raise InputError(
            f"text_encoder={config.text_encoder} unet={config.unet}: they are of one model; leave"
            " them out, or find=best and experiment="
        )
    if not (point.pruned or config.find or config.curves):
        raise InputError(
            "nothing to prune: text_encoder=0 and unet=0; expected a share of zeros for one of"
            " them, experiment=shapes_quick for a sweep, or find=best for a search"
        )
    methods = _methods(config)
    if switch(config, "dry_run"):
        if not point.pruned:
            raise InputError("dry_run=true counts one model; expected text_encoder= or unet=")
        return _count(config, point, methods)
    if config.find:
        return run_search(config, to_prune(config), methods)
    if config.curves:
        _refuse_single()
        curves_of(config)  # before anything is loaded
        return run_sweep(config, to_prune(config))
    return _one(config, point, methods)


def _refuse_single() -> None:
    """A sweep has its criteria by name: one that is given would not be looked at."""
    for given in task_overrides():
        if given.startswith(("criterion=", "criterion@unet_criterion=", "criterion.")):
            raise InputError(
                f"{given}: a sweep takes criteria= and curves.NAME.criteria; leave it out, or leave"
                " experiment= out for one model"
            )


def _methods(config: DictConfig) -> dict[str, Method]:
    """By component; the U-Net's is the text encoder's unless it has its own."""
    method = method_of(config.criterion, "criterion")
    own = OmegaConf.select(config, "unet_criterion")
    unet = method if own is None else method_of(own, "unet_criterion")
    return dict(zip(COMPONENTS, (method, unet), strict=True))


def _configuration(
    config: DictConfig, point: Point, methods: Mapping[str, Method]
) -> Configuration:
    expected.count("seed", config.seed, least=0)
    return Configuration(
        label=label_of(method.name for method in methods.values()),
        methods=methods,
        selection=selection_of(config),
        point=point,
        seed=config.seed,
    )


def _one(config: DictConfig, point: Point, methods: Mapping[str, Method]) -> int:
    """Prune one model, and write it."""
    configuration, settings = (
        _configuration(config, point, methods),
        built(config.export, PrunedSettings),
    )
    model = to_prune(config)
    out = Path(str(config.out)).expanduser() if config.out else _folder_of(model, configuration)
    refuse_others(out.resolve(), mark=SPARSITY)  # before the work, too
    pipeline = model.load()
    if configuration.calibrated:
        check_calibration(pipeline, config)
        pipeline.to(best_device())
    plan = prune_pipeline(
        pipeline,
        configuration,
        calibration=lambda seed: with_seed(config, "calibration", CalibrationSettings, seed),
        already_sparse=switch(config, "already_sparse"),
        before=model.sparsity,
    )
    pipeline.to("cpu")
    dtype = settings.torch_dtype
    plan = as_rounded(plan, pipeline, dtype)
    _refuse_another(out, plan)
    print(accounting_table(accounting(plan, sizes_of(pipeline), bytes_a_weight=dtype.itemsize)))
    export_pruned(
        pipeline,
        out,
        plan,
        settings=settings,
        about=model.about,
        guidance=model.guidance,
        license=model.license,
        narrow=model.narrow,
    )
    print(f"pruned: {out} ({settings.told(model.narrow)})")
    return 0


def _refuse_another(out: Path, plan: SparsityPlan) -> None:
    """The same command again may replace its folder, in another format, too; no other one may."""
    there = folder_sparsity(out)
    if there is not None and there != plan:
        raise InputError(
            f"{out} holds a model that was pruned otherwise; choose another out=, or remove it"
        )


def _folder_of(model: ToPrune, configuration: Configuration) -> Path:
    name = f"{model.name}-{configuration.point}-{configuration.label}"
    if configuration.selection.layers != "linear":
        name += f"-{configuration.selection.layers}"
    return Path("pruned") / slug(name)


def _count(config: DictConfig, point: Point, methods: Mapping[str, Method]) -> int:
    """What a point would be, of the architecture alone."""
    if config.model is not None:
        raise InputError(
            f"dry_run=true counts a teacher= without its weights; leave model={config.model} out"
        )
    parts = architecture(built(config.teacher, TeacherSource))
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**parts["text_encoder"]))
        unet = UNet2DConditionModel.from_config(parts["unet"])
        vae = AutoencoderKL.from_config(parts["vae"])
    configuration = _configuration(config, point, methods)
    networks = dict(zip(COMPONENTS, (text, unet), strict=True))
    layers = dict(
        zip(COMPONENTS, prunable(list(networks.values()), configuration.selection), strict=True)
    )
    refuse_empty(layers, point.pruned)
    for name, share in point.pruned.items():
        methods[name].budget(share)
    plan = SparsityPlan(
        components=tuple(
            planned(
                layers[name],
                component=name,
                parameters=parameter_count(networks[name]),
                sparsity=share,
                method=methods[name],
            )
            for name, share in point.pruned.items()
        )
    )
    sizes = Sizes(
        text_encoder=parameter_count(text), unet=parameter_count(unet), vae=parameter_count(vae)
    )
    for name in point.pruned:
        own = sum(layer.weight.numel() for layer in layers[name].values())
        whole = parameter_count(networks[name])
        print(f"{name}: {own:,} of {whole:,} weights may be pruned ({100 * own / whole:.1f} %)")
    itemsize = built(config.export, PrunedSettings).torch_dtype.itemsize
    print(accounting_table(accounting(plan, sizes, bytes_a_weight=itemsize)))
    return 0
