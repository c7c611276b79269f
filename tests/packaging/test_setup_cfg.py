"""What setup.cfg packs is what lies here; nothing is built."""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def setup_cfg() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def folder_of(package: str) -> Path:
    """Where a package's files lie; conf/ is installed as bksdm.conf."""
    return ROOT / ("conf" if package == "bksdm.conf" else package.replace(".", "/"))


def files_below(folder: Path) -> set[Path]:
    return {
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_folder_with_python_files_is_a_package() -> None:
    with_python = {path.parent for path in files_below(ROOT / "bksdm") if path.suffix == ".py"}
    names = setup_cfg()["options"]["packages"].split()
    assert sorted({folder_of(name) for name in names}) == sorted({*with_python, ROOT / "conf"})


def test_every_package_has_an_init() -> None:
    names = setup_cfg()["options"]["packages"].split()
    assert [name for name in names if not (folder_of(name) / "__init__.py").is_file()] == []


def test_every_other_file_is_package_data() -> None:
    others = {
        path
        for root in ("bksdm", "conf")
        for path in files_below(ROOT / root)
        if path.suffix != ".py"
    }
    matched = {
        path
        for package, patterns in setup_cfg()["options.package_data"].items()
        for pattern in patterns.replace(",", " ").split()
        for path in folder_of(package).glob(pattern)
    }
    assert sorted(others - matched) == []


def test_the_compromised_lightning_releases_are_out_of_range() -> None:
    required = setup_cfg()["options"]["install_requires"].split()
    assert "pytorch-lightning>=2.6.4" in required
    assert [name for name in required if name.startswith("lightning")] == []
