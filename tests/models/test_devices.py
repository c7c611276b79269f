import pytest

from bksdm.models.devices import ACCELERATORS, accelerator, named, peak_tflops


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "rtx3090ti"),
        ("AMD Instinct MI250X", "mi250x"),
        ("AMD Instinct MI300X OAM", "mi300x"),
    ],
)
def test_a_device_is_found_by_its_name(device: str, name: str) -> None:
    found = accelerator(device)
    assert found is not None
    assert found.name == name
    assert found == named(name.upper())


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA RTX A1000",  # no A100
        "NVIDIA T400",  # no T4
        "Quadro T1000",
        "NVIDIA L400",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",  # three sevenths of one
        "NVIDIA GeForce RTX 4090 Laptop GPU",  # another chip
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce GTX 1080 Ti",
        "",
    ],
)
def test_what_is_not_in_the_table_is_not_guessed(device: str) -> None:
    assert accelerator(device) is None
    assert peak_tflops(device, precision="bf16-mixed") is None
    assert peak_tflops(device, precision="bf16-mixed", override=50.0) == 50


def test_the_peak_is_that_of_the_precision() -> None:
    device = "NVIDIA A100-SXM4-80GB"
    assert peak_tflops(device, precision="bf16-mixed") == 312
    assert peak_tflops(device, precision="32-true") == 156
    assert peak_tflops(device, precision="32-true", override=19.5) == 19.5
    assert peak_tflops("Tesla T4", precision="bf16-mixed") is None  # it has none
    assert peak_tflops("Tesla T4", precision="32-true") == 8.1


def test_every_name_and_match_is_there_once() -> None:
    names = [each.name for each in ACCELERATORS]
    texts = [text.lower() for each in ACCELERATORS for text in each.matches]
    assert len(set(names)) == len(names)
    assert len(set(texts)) == len(texts)
    for each in ACCELERATORS:
        assert accelerator(f"NVIDIA {each.matches[0]}") == each
