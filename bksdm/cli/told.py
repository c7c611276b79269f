"""What `bksdm check` has found, printed for people or for programs."""

import json
from dataclasses import asdict
from typing import Any, NamedTuple

from bksdm.cli.planned import Complaints
from bksdm.cli.shards_report import Split, shard_tables


class Part(NamedTuple):
    """A part of what is told, for people and for programs."""

    name: str
    text: str
    values: Any


def print_text(
    splits: dict[str, Split],
    parts: list[Part],
    complaints: Complaints,
    seconds: float,
) -> None:
    """For people."""
    tables = [shard_tables(splits), *(part.text for part in parts), "\n".join(complaints.notes)]
    count = len(complaints.problems)
    found = f"{count or 'no'} problem{'s' * (count != 1)}"
    print("\n\n".join([*filter(None, tables), f"{found}; looked for {seconds:.1f} s"]))


def print_json(
    splits: dict[str, Split],
    parts: list[Part],
    complaints: Complaints,
    seconds: float,
) -> None:
    """For programs."""
    content: dict[str, Any] = {
        split: asdict(each.summary) for split, each in splits.items() if each.summary
    }
    content |= {part.name: part.values for part in parts}
    print(json.dumps(content | asdict(complaints) | {"seconds": seconds}, indent=1))
