"""The wheel as a user gets it: built from the sdist, installed in a fresh environment, used in an
empty folder (make test-wheel).

Third-party packages are those of the running environment, through links: torch alone takes minutes
to install. The repository's own editable installation is not among them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parents[2]

# Runs at every start of the fresh Python: writes down what is opened below the repository.
WATCH = """
import os, sys
_log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments:
        path = arguments[0]
        path = path.decode() if isinstance(path, bytes) else path
        if isinstance(path, str) and path.startswith({root!r}) and not path.startswith({allowed!r}):
            os.write(_log, (path + chr(10)).encode())
sys.addaudithook(_watch)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of the repository, where a build may write."""
    folder = tmp_path_factory.mktemp("tree")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build(tree: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *options, tree]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(tree, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and links to the third-party packages of this one."""
    folder = tmp_path_factory.mktemp("fresh")
    others = folder / "third-party"
    others.mkdir()
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site).iterdir():
            if "bksdm" not in entry.name and entry.suffix != ".pth":
                (others / entry.name).symlink_to(entry)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env/bin/python"
    pip(python, "install", "--no-deps", "--no-index", str(wheel))
    site = Path(
        output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    watch = WATCH.format(log=str(folder / "opened"), root=f"{ROOT}/", allowed=f"{sys.prefix}/")
    (site / "watch_repository.py").write_text(watch)
    (site / "third-party.pth").write_text(f"{others}\nimport watch_repository\n")
    return folder


def pip(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "-q", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def output(*command: str | Path, cwd: Path | None = None) -> str:
    """Of a command in an environment that knows nothing of this process's Python."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def bksdm(fresh: Path) -> Callable[..., str]:
    """Runs the installed command in one folder, empty at first; returns what it prints."""
    (fresh / "work").mkdir()
    return lambda *words: output(fresh / "env/bin/bksdm", *words, cwd=fresh / "work")


def names_in(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if not name.endswith("/"))


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path, tree: Path) -> None:
    package = {str(p.relative_to(tree)) for p in (tree / "bksdm").rglob("*") if p.is_file()}
    conf = {f"bksdm/{p.relative_to(tree)}" for p in (tree / "conf").rglob("*") if p.is_file()}
    info = {name for name in names_in(wheel) if ".dist-info/" in name}
    assert set(names_in(wheel)) - info == package | conf
    assert any(name.endswith("licenses/LICENSE") for name in info)


def test_the_sdist_builds_the_wheel_that_the_dockerfile_builds_of_the_repository(
    wheel: Path, tree: Path, tmp_path: Path
) -> None:
    for line in (tree / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            kept = tree / line[1:]
            copy = shutil.copytree if kept.is_dir() else shutil.copy
            (tmp_path / "image").mkdir(exist_ok=True)
            copy(kept, tmp_path / "image" / kept.name)
    build(tmp_path / "image", tmp_path, "--wheel")
    with ZipFile(wheel) as ours, ZipFile(tmp_path / wheel.name) as direct:
        assert sorted(ours.namelist()) == sorted(direct.namelist())
        for name in ours.namelist():
            assert ours.read(name) == direct.read(name), name


def test_the_sdist_has_neither_tests_nor_data(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {Path(name).parts[1] for name in archive.getnames() if "/" in name}
    assert {"bksdm", "conf", "LICENSE", "README.md", "constraints.txt"} <= tops
    assert not tops & {"tests", "data", "docs", "bench", "scripts", "notebooks", "build", ".git"}


def test_what_the_wheel_requires_is_here(fresh: Path) -> None:
    [info] = fresh.glob("env/lib/python3*/site-packages/bksdm-*.dist-info")
    required = [Requirement(line) for line in metadata.Distribution.at(info).requires or []]
    base = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert len(base) > 10
    for one in base:
        assert one.specifier.contains(metadata.version(one.name), prereleases=True), one
    pip(fresh / "env/bin/python", "check")


def test_bksdm_comes_from_the_fresh_environment(fresh: Path) -> None:
    python = fresh / "env/bin/python"
    for name in ("bksdm", "bksdm.conf"):
        found = output(python, "-c", f"import {name}; print({name}.__file__)", cwd=fresh)
        assert found.startswith(f"{fresh}/env/lib/")


def test_the_installed_command_goes_from_nothing_to_a_student(
    fresh: Path, bksdm: Callable[..., str]
) -> None:
    version = metadata.version("bksdm")
    assert bksdm("--version") == f"bksdm {version}\n"
    assert "usage: bksdm VERB" in bksdm("--help")
    assert "U-Net parameters" in bksdm("plan")
    bksdm("prepare", "source.train_samples=64", "validation_samples=32", "workers=1")
    few = ("data.validation_samples=32", "samples.every_n_steps=0", "checkpoint.every_n_steps=2")
    bksdm("train", "trainer.max_steps=2", "protocol=none", "name=two-steps", *few)
    load = (
        "from diffusers import StableDiffusionPipeline as P;"
        "p = P.from_pretrained('runs/two-steps/student');"
        "print(p('a big red circle on a white background', num_inference_steps=2).images[0].size)"
    )
    assert output(fresh / "env/bin/python", "-c", load, cwd=fresh / "work") == "(64, 64)\n"
    assert (fresh / "opened").read_text() == ""  # nothing was read from the repository


def test_the_watch_sees_what_is_read_from_the_repository(fresh: Path) -> None:
    before = (fresh / "opened").read_text()
    output(fresh / "env/bin/python", "-c", f"open({str(ROOT / 'setup.cfg')!r})", cwd=fresh)
    assert (fresh / "opened").read_text() == f"{before}{ROOT / 'setup.cfg'}\n"
