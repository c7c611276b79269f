"""Tap the outputs of named submodules while a block of code runs. Knows nothing of U-Nets."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def tap(root: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named submodules; of an output tuple, the first element.

    Resolve names on the bare module, not on a DDP wrapper. The hooks come off when the block ends,
    so that the second forward of gradient checkpointing, inside backward, does not write here
    again.

    Raises:
        AttributeError: `root` has no submodule of that name.
    """
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in names:
            handle = root.get_submodule(name).register_forward_hook(_store(seen, name))
            hooks.callback(handle.remove)
        yield seen


def _store(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        del module, inputs
        seen[name] = output[0] if isinstance(output, tuple) else output

    return hook
