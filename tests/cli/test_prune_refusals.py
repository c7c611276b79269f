"""What `bksdm prune` refuses: one line, exit code 2, and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from tests.cli.test_prune_sweep import experiment
from tests.pruned import prune

Cli = Callable[..., int]
UNET = "unet=0.3"


@pytest.fixture(scope="module")
def models(sd1_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that cannot be pruned, and what is no model."""
    folder = tmp_path_factory.mktemp("models")
    prune(sd1_folder, folder / "pruned")
    shutil.copytree(sd1_folder, folder / "no-text")
    shutil.rmtree(folder / "no-text" / "text_encoder")
    xl = StableDiffusionPipeline.from_pretrained(sd1_folder, safety_checker=None)
    xl.unet.register_to_config(addition_embed_type="text")
    xl.save_pretrained(folder / "xl")
    shutil.copytree(sd1_folder, folder / "mixture")
    (folder / "mixture" / "mixture.json").write_text("{}")
    (folder / "transformer" / "transformer").mkdir(parents=True)
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    }
    (folder / "transformer" / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def refused(
    run_cli: Cli,
    sd1_folder: Path,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """The line that a command is refused with."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    experiment(tmp_path)

    def run(*arguments: str) -> str:
        given = [each.replace("{models}", str(models)) for each in arguments]
        if not any(each.startswith(("model=", "teacher=")) for each in given):
            given.append(f"model={sd1_folder}")
        before = sorted(tmp_path.rglob("*"))
        assert run_cli("prune", *given, "export.fresh_process=false") == 2
        assert sorted(tmp_path.rglob("*")) == before
        told = capsys.readouterr().err.strip()
        assert len(told.splitlines()) == 1
        assert told.startswith("bksdm prune: ")
        return told

    return run


WANDA = [UNET, "criterion=wanda"]
CAPTIONS = [*WANDA, "calibration=captions"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to prune: text_encoder=0 and unet=0"),
        (["unet=1.0"], "unet=1.0: expected a number, at least 0 and below 1"),
        (["text_encoder=-0.1"], "text_encoder=-0.1: expected a number, at least 0 and below 1"),
        (["unet=half"], "unet=half: expected a number"),
        ([UNET, "layers=conv"], "layers=conv: expected one of linear, linear+conv"),
        ([UNET, "include=[attn3]"], "include=attn3: no linear layer has such a name; the nearest"),
        ([UNET, "exclude=down_block.0"], "the nearest is down_blocks.0"),
        ([UNET, "include=[attn2]", "exclude=[attn2]"], "no layer is left to prune"),
        (["text_encoder=0.3", "include=[attn2]"], "text_encoder=0.3: include= and exclude= leave"),
        ([UNET, "criterion=wonda"], "Could not find 'criterion/wonda'"),
        ([UNET, "criterion.pattern=2:4"], "sparsity 0.3 with pattern=2:4: expected 0.5"),
        ([UNET, "criterion.pattern=4:2"], "pattern=4:2: expected N below M"),
        ([UNET, "criterion.granularity=layer"], "granularity=layer: expected one of tensor"),
        ([UNET, "seed=-1"], "seed=-1: expected a whole number"),
        ([UNET, "export.format=zip"], "export.format=zip: expected one of dense, packed"),
        ([UNET, "out=other"], "exists, and was not written by bksdm"),
        ([UNET, "out=three.txt"], "exists, and was not written by bksdm"),
        ([UNET, "dry_run=true"], "dry_run=true counts a teacher="),
        (WANDA, "calibration=shapes is of the embedded world, and this model makes 16x16"),
        (
            [*CAPTIONS, "calibration.prompts.path=three.txt", "calibration.prompts.count=3"],
            "calibration has 3 prompts; expected at least 8",
        ),
        (
            [*CAPTIONS, "calibration.prompts.path=three.txt"],
            "prompts.count=128: three.txt holds 3",
        ),
        ([*CAPTIONS, "calibration.prompts.path=nowhere.txt"], "nowhere.txt: no such file"),
        (CAPTIONS, "calibration.prompts.path= is missing"),
        ([*WANDA, "calibration.sampling.dtype=float16"], "it would cast the model"),
    ],
)
def test_settings_of_one_model(
    refused: Callable[..., str], arguments: list[str], words: str
) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "model={models}/pruned",
            "of the unet's weights that may be pruned 50.0 % are zeros already",
        ),
        ("model={models}/mixture", "a mixture is not pruned as a whole"),
        ("model={models}/no-text", "no-text"),
        ("teacher={models}/no-text", "no-text"),
        ("model=not/there/at/all", "model not/there/at/all: nothing there"),
        ("model={models}/xl", "addition_embed_type=text"),
        ("teacher={models}/xl", "SDXL-like U-Net"),
        ("model={models}/transformer", "transformer"),
        ("teacher={models}/transformer", "no {models}/transformer/unet/config.json"),
    ],
)
def test_models(refused: Callable[..., str], models: Path, model: str, words: str) -> None:
    assert words.format(models=models) in refused(UNET, model)


SEARCH = "find=best"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["find=nonsense"], "find=nonsense: expected one of null, best"),
        ([SEARCH, "max_loss=-1"], "max_loss=-1: expected a number, at least 0"),
        ([SEARCH, "max_loss=some"], "max_loss=some: expected a number"),
        ([SEARCH, "seeds=[]"], "seeds=[]: expected a list of whole numbers"),
        ([SEARCH, "seeds=[a]"], "seeds=a: expected a whole number"),
        ([SEARCH, "seeds=3"], "seeds=3: expected a list"),
        ([SEARCH, "step=0"], "step=0: expected a number, at least 0.01 and at most 0.5"),
        ([SEARCH, UNET], "they are of one model; leave them out, or find=best"),
        ([SEARCH, "out=three.txt"], "out=three.txt is a file; expected a folder"),
        ([SEARCH], "choose another protocol="),
        ([SEARCH, "experiment=shapes_quick"], "find=best and curves=: expected one of them"),
        (
            ["experiment=shapes_quick", "dry_run=true", "model=null"],
            "dry_run=true counts one model",
        ),
    ],
)
def test_settings_of_a_search(
    refused: Callable[..., str], arguments: list[str], words: str
) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curves.unet.criteria=[magnitud]"], "curves.unet.criteria: magnitud for the text_enc"),
        (["curves.unet.criteria=[{unet:magnitude}]"], "None for the text_encoder is none of"),
        (["curves.unet.criteria=[3]"], "curves.unet.criteria: 3 for the text_encoder is none of"),
        (["curves.unet.criteria=[]"], "curves.unet.criteria: expected at least one of"),
        (["curves.unet.grid.sparsities=[]"], "curves.unet.grid: it has no points"),
        (["curves.unet.grid.sparsities=0.5"], "sparsities=0.5: expected a list"),
        (["curves.unet.grid.sparsities=[1]"], "unet=1: expected a number"),
        (["curves.unet.grid.component=vae"], "component=vae: expected one of text_encoder, unet"),
        (["curves.pair.grid.pairs=[0.5]"], "pairs: 0.5; expected [text encoder, U-Net]"),
        (["curves.pair.grid.pairs=[[0.5]]"], "pairs: [0.5]; expected [text encoder, U-Net]"),
        (["curves=3"], "curves=3: expected entries by name"),
        (["criteria=null"], "criteria=None: expected entries by name"),
        (["seeds=[-1]"], "seeds=-1: expected a whole number"),
        (["out=three.txt"], "out=three.txt is a file"),
        ([UNET], "they are of one model"),
    ],
)
def test_settings_of_a_sweep(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in refused("--config-dir", "own", "experiment=mini", *arguments)
