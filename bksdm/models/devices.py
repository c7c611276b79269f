"""Accelerators: peak rates and memory, found by the name that torch gives a device.

Rates are the makers' dense ones in TFLOP/s (data sheets that print rates "with sparsity" are
halved), with fp32 accumulation. An accelerator that is not here has no peak: nothing is guessed.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Accelerator:
    """One kind of device as torch sees it (of an MI250X that is one of its two dies).

    Attributes:
        name: what a user calls it.
        matches: parts of `torch.cuda.get_device_name`, whole words.
        bf16: TFLOP/s in bfloat16; None where the hardware has none.
        fp16: TFLOP/s in float16 with fp32 accumulation.
        tf32: TFLOP/s in TF32, None where there is none.
        fp32: TFLOP/s in float32 outside tensor cores.
        memory_gib: memory as it is sold; drivers keep one or two per cent of it.
        source: the maker's document.
    """

    name: str
    matches: tuple[str, ...]
    bf16: float | None
    fp16: float
    tf32: float | None
    fp32: float
    memory_gib: int
    source: str

    def peak(self, precision: str) -> float | None:
        """TFLOP/s of the fastest arithmetic that `trainer.precision` lets the networks use:
        bfloat16, or TF32 (which cuDNN's convolutions use by default) where there is any. None for
        bfloat16 on hardware without it.
        """
        return self.bf16 if precision == "bf16-mixed" else self.tf32 or self.fp32


_VOLTA = "Tesla V100 data sheet, 2020"
_A100 = "A100 data sheet, 2022"
_H100 = "H100 data sheet, 2024"
_H200 = "H200 data sheet, 2024"
_BLACKWELL = "Blackwell architecture brief and DGX/HGX data sheets, 2024"

ACCELERATORS: Final = (
    Accelerator("v100-16", ("V100-SXM2-16GB",), None, 125, None, 15.7, 16, _VOLTA),
    Accelerator("v100", ("V100-SXM2-32GB", "V100-SXM3-32GB"), None, 125, None, 15.7, 32, _VOLTA),
    Accelerator("v100-pcie-16", ("V100-PCIE-16GB",), None, 112, None, 14, 16, _VOLTA),
    Accelerator("v100-pcie", ("V100-PCIE-32GB",), None, 112, None, 14, 32, _VOLTA),
    Accelerator("v100s", ("V100S-PCIE-32GB",), None, 130, None, 16.4, 32, _VOLTA),
    Accelerator("t4", ("T4",), None, 65, None, 8.1, 16, "T4 data sheet, 2019"),
    Accelerator("a10", ("A10",), 125, 125, 62.5, 31.2, 24, "A10 data sheet, 2022"),
    Accelerator("a10g", ("A10G",), 70, 70, 35, 35, 24, "A10G data sheet of AWS, 2021"),
    Accelerator("a30", ("A30",), 165, 165, 82, 10.3, 24, "A30 data sheet, 2022"),
    Accelerator("a40", ("A40",), 149.7, 149.7, 74.8, 37.4, 48, "A40 data sheet, 2021"),
    Accelerator("a6000", ("RTX A6000",), 154.8, 154.8, 77.4, 38.7, 48, "RTX A6000 data sheet"),
    Accelerator("a100-40", ("A100-SXM4-40GB", "A100-PCIE-40GB"), 312, 312, 156, 19.5, 40, _A100),
    Accelerator("a100", ("A100-SXM4-80GB", "A100 80GB PCIe"), 312, 312, 156, 19.5, 80, _A100),
    Accelerator("l4", ("L4",), 121, 121, 60, 30.3, 24, "L4 data sheet, 2023"),
    Accelerator("l40", ("L40",), 181, 181, 90.5, 90.5, 48, "L40 data sheet, 2023"),
    Accelerator("l40s", ("L40S",), 362, 362, 183, 91.6, 48, "L40S data sheet, 2023"),
    Accelerator("rtx3090", ("RTX 3090",), 71, 71, 35.6, 35.6, 24, "GA102 white paper, 2021"),
    Accelerator("rtx3090ti", ("RTX 3090 Ti",), 80, 80, 40, 40, 24, "GA102 white paper, 2021"),
    Accelerator("rtx4090", ("RTX 4090",), 165.2, 165.2, 82.6, 82.6, 24, "Ada white paper, 2022"),
    Accelerator(
        "rtx6000ada", ("RTX 6000 Ada Generation",), 364, 364, 182, 91.1, 48, "Ada data sheet, 2023"
    ),
    Accelerator(
        "rtx5090", ("RTX 5090",), 209.5, 209.5, 104.8, 104.8, 32, "RTX Blackwell white paper, 2025"
    ),
    Accelerator("h100", ("H100 80GB HBM3", "H100 SXM5"), 989, 989, 494, 67, 80, _H100),
    Accelerator("h100-pcie", ("H100 PCIe",), 756, 756, 378, 51, 80, "H100 PCIe data sheet, 2022"),
    Accelerator("h100-nvl", ("H100 NVL",), 835, 835, 417, 60, 94, _H100),
    Accelerator("h200", ("H200",), 989, 989, 494, 67, 141, _H200),
    Accelerator("h200-nvl", ("H200 NVL",), 835, 835, 417, 60, 141, _H200),
    Accelerator(
        "gh200", ("GH200 480GB",), 989, 989, 494, 67, 96, "GH200 data sheet, 2024"
    ),
    Accelerator("b200", ("B200",), 2250, 2250, 1125, 75, 180, _BLACKWELL),
    Accelerator("gb200", ("GB200",), 2500, 2500, 1250, 80, 186, _BLACKWELL),
    Accelerator("mi210", ("MI210",), 181, 181, None, 22.6, 64, "MI210 data sheet, 2022"),
    Accelerator(
        "mi250x", ("MI250X",), 191.5, 191.5, None, 23.9, 64, "MI250X data sheet, 2021, one die"
    ),
    Accelerator("mi300x", ("MI300X",), 1307, 1307, 653, 163, 192, "MI300X data sheet, 2023"),
    Accelerator("mi325x", ("MI325X",), 1307, 1307, 653, 163, 256, "MI325X data sheet, 2024"),
)  # fmt: skip

# A slice of a chip, or a slower chip under the same name.
_OTHER_RATES: Final = re.compile(r"\b(MIG|Laptop|Max-Q|vGPU|4090 D|5090 D|GRID)\b", re.IGNORECASE)


def accelerator(device_name: str) -> Accelerator | None:
    """The accelerator that `torch.cuda.get_device_name` names, by the longest match; None for one
    that is not in the table, for a part of one (MIG) and for slower namesakes (laptops).
    """
    if _OTHER_RATES.search(device_name):
        return None
    found = [
        (len(text), index)
        for index, each in enumerate(ACCELERATORS)
        for text in each.matches
        if re.search(rf"(?<![A-Z0-9]){re.escape(text)}(?![A-Z0-9])", device_name, re.IGNORECASE)
    ]
    return ACCELERATORS[max(found)[1]] if found else None


def named(name: str) -> Accelerator | None:
    """The accelerator that a user calls `name`, such as h100; None if the table has none."""
    return next((each for each in ACCELERATORS if each.name == name.lower()), None)


def peak_tflops(device_name: str, *, precision: str, override: float | None = None) -> float | None:
    """Peak TFLOP/s of a device at `trainer.precision`: the caller's own figure if there is one,
    else the table's; None if neither knows.
    """
    if override is not None:
        return override
    found = accelerator(device_name)
    return found.peak(precision) if found else None
