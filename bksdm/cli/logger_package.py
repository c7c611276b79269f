"""Whether the package of the logger that is wanted is installed, told before anything begins."""

from importlib.util import find_spec
from typing import Final

from omegaconf import DictConfig

from bksdm.errors import InputError

# What Lightning's loggers import when they are made.
_PACKAGES: Final = {
    "CometLogger": "comet_ml",
    "MLFlowLogger": "mlflow",
    "NeptuneLogger": "neptune",
    "WandbLogger": "wandb",
}


def check_logger(config: DictConfig) -> None:
    """Refuse a logger whose package is not here; makes no logger and imports nothing.

    Raises:
        InputError: names the package.
    """
    node = config.logger.extra
    if node is None:
        return
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise InputError(f"logger.extra={node}: expected null, or a logger as in logger=wandb")
    target = str(node._target_)
    first, last = target.split(".")[0], target.split(".")[-1]
    for package in (first, _PACKAGES.get(last, first)):
        if find_spec(package) is None:
            raise InputError(
                f"logger.extra={target}: package {package} is not installed; install it, e.g."
                " pip install 'bksdm[wandb]', or use logger=files"
            )
