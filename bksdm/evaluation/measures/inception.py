"""The Inception network of FID, KID and Inception Score, with the resize said aloud.

The network is torch-fidelity's port of the TensorFlow graph of 2015-12-05, with the same weights
file as pytorch-fid's. FID depends on the resize (Parmar et al., arXiv 2104.11222), so that the one
inside the port is never used unseen.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from bksdm import expected
from bksdm.checksum import sha256_of
from bksdm.errors import InputError
from bksdm.evaluation.measures.features import FEATURES, Extractor, Identity
from bksdm.evaluation.measures.inception_input import INPUTS

LOGITS: Final = "logits"
# The beginning of the published file's sha256, which its name tells.
PUBLISHED: Final = "6726825d"
URL: Final = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True, kw_only=True)
class Inception:
    """Pooled features (2,048), and logits without bias (1,008) for Inception Score.

    Attributes:
        input: "pytorch_fid" (bilinear, not antialiased), "clean" (clean-fid: PIL's bicubic,
            antialiased, in float) or "tensorflow" (torch-fidelity: TensorFlow 1's bilinear).
        weights: file of the weights; None downloads torch-fidelity's, or takes it from torch.hub's
            cache.
    """

    input: str
    weights: str | None = None

    def __post_init__(self) -> None:
        expected.one_of("inception.input", self.input, tuple(INPUTS))

    def load(self, device: torch.device) -> Extractor:
        """The network on its device.

        Raises:
            InputError: torch-fidelity or torchvision is not installed, or the weights are not
                there, or others.
        """
        network, file = _load_network(self.weights)
        network.to(device)
        # Its parts are declared in the order in which they are used.
        parts = [part for name, part in network.named_children() if name != "fc"]
        body, prepare = nn.Sequential(*parts), INPUTS[self.input]

        def forward(pixels: Tensor) -> Mapping[str, Tensor]:
            pooled = body(prepare(pixels, device)).flatten(1)
            return {FEATURES: pooled, LOGITS: pooled @ network.fc.weight.T}

        classes, width = network.fc.weight.shape
        return Extractor(
            identity=_identity(file, self.input),
            dims={FEATURES: width, LOGITS: classes},
            forward=forward,
        )


def _identity(file: Path, resize: str) -> Identity:
    digest = sha256_of(file)
    which = "2015-12-05" if digest.startswith(PUBLISHED) else "weights of your own"
    return Identity(
        name=f"Inception v3 ({which})", weights=digest, source=str(file), input=f"{resize} 299"
    )


def _load_network(weights: str | None) -> tuple[Any, Path]:
    """torch-fidelity's network on the CPU, and the file of its weights."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as port
    except ModuleNotFoundError as error:
        raise InputError(
            f"Inception needs {error.name}, which is not installed: pip install"
            " 'bksdm[metrics]' torchvision"
        ) from error
    if weights is not None:
        _check_weights(Path(weights))
    try:
        network = port.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], weights)
    except OSError as error:
        raise InputError(
            f"Inception's weights cannot be downloaded ({error}); get {URL} and name the file:"
            " network.weights=FILE"
        ) from error
    except RuntimeError as error:  # other names or shapes
        raise InputError(
            f"{weights}: not the weights of FID's Inception; expected the file of {URL}"
        ) from error
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(port.URL_INCEPTION_V3).name
    return network, cached if weights is None else Path(weights)


def _check_weights(file: Path) -> None:
    """The library would unpickle anything."""
    if not file.is_file():
        raise InputError(f"Inception's weights {file}: not there; get {URL}")
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"Inception's weights {file}: no file of plain tensors ({type(error).__name__});"
            f" expected the file of {URL}"
        ) from error
