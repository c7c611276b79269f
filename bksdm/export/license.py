"""A student's licence: its teacher's, from the teacher's settings or its own model card."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CardData, ModelCard
from yaml import YAMLError

from bksdm.errors import InputError
from bksdm.models.hub import first_line, hub_file
from bksdm.models.source import EMBEDDED, TeacherSource


@dataclass(frozen=True)
class License:
    """A licence as the Hub identifies it; one that it calls "other" has a name and a link."""

    id: str
    name: str | None = None
    link: str | None = None


def license_of(source: TeacherSource, *, wanted: str | None) -> License:
    """The licence of a teacher's student, which inherits it.

    Args:
        source: the teacher.
        wanted: what the user says it is, for a teacher that says nothing.

    Raises:
        InputError: neither says one, or they differ.
    """
    if wanted is None:
        return inherited_license(source)
    try:
        inherited = inherited_license(source)
    except InputError:
        return License(wanted)
    if inherited.id != wanted:
        raise InputError(
            f"license={wanted}: teacher {source.path} has {inherited.id}, which a student inherits;"
            " leave it out"
        )
    return inherited


def inherited_license(source: TeacherSource) -> License:
    """The licence that a teacher says it has: in its settings, or in its own model card.

    Raises:
        InputError: neither says one.
    """
    if source.license is not None:
        return License(source.license)
    remedy = "give the identifier that the Hub has for it: license=..."
    try:
        local = Path(source.location) / "README.md"
        if source.path.startswith(EMBEDDED) or Path(source.location).is_dir():
            path = local
        else:
            of = f"licence of teacher {source.path}"
            path = hub_file(source.path, "README.md", revision=source.revision, of=of)
        data = ModelCard(path.read_text()).data
    except (InputError, OSError, ValueError, YAMLError) as error:
        raise InputError(
            f"teacher {source.path}: no card that says its licence ({first_line(error)}); {remedy}"
        ) from error
    found = _said(data)
    if found is None:
        raise InputError(f"teacher {source.path}: its card says no licence; {remedy}")
    return found


def license_of_folder(folder: Path) -> License | None:
    """The licence that the model card of a folder says; None where it says none."""
    try:
        data = ModelCard((folder / "README.md").read_text()).data
    except (OSError, ValueError, YAMLError):
        return None
    return _said(data)


def _said(data: CardData) -> License | None:
    if not data.get("license"):
        return None
    return License(str(data.get("license")), data.get("license_name"), data.get("license_link"))
