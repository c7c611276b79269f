"""torch-fidelity, which `make setup` puts beside the environment: it imports torchvision, of which
there may be no build here, but needs nothing of it for Inception.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

BESIDE = Path(sys.prefix) / "torch-fidelity"


def _stand_ins() -> dict[str, ModuleType]:
    """Of the names that torch-fidelity takes from torchvision when it is imported."""
    names = ("", ".datasets", ".transforms", ".transforms.functional", ".models")
    modules = {f"torchvision{name}": ModuleType(f"torchvision{name}") for name in names}
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(modules["torchvision.datasets"], name, type(name, (), {}))
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules


@pytest.fixture(scope="package")
def torch_fidelity() -> Iterator[ModuleType]:
    """The library; skips where it is not."""
    if importlib.util.find_spec("torch_fidelity") is None and not BESIDE.is_dir():
        pytest.skip(
            "torch-fidelity is not installed; `make setup` puts it beside the environment, where it"
            " can be fetched"
        )
    whole = importlib.util.find_spec("torchvision") is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BESIDE)
        for name, module in {} if whole else _stand_ins().items():
            patch.setitem(sys.modules, name, module)
        library = importlib.import_module("torch_fidelity")
    yield library
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_fidelity"]:
        del sys.modules[name]


@pytest.fixture(scope="package")
def inception_weights(torch_fidelity: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, whose activations neither vanish nor explode."""

    class Random(torch_fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments: Any, **keywords: Any) -> None:
            torch.manual_seed(0)
            for part in self.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.kaiming_normal_(part.weight)

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    network = Random("random", ["2048"], str(folder / "empty.pth"))
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"
