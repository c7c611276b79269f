"""The checks that the Hub makes of a model card's front matter.

Stricter than the Hub in one thing: a front matter without a licence is an error.
"""

from typing import Any

import yaml


def front_matter(text: str) -> Any:
    """The YAML between the first two "---" lines; None where there is none."""
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].strip() != "---" or "---" not in lines[1:]:
        return None
    return yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)])) or {}


def card_problems(text: str) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    try:
        matter = front_matter(text)
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"], []
    if matter is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(matter, dict):
        return ["the front matter must be an object"], []
    return [*_field_errors(matter), *_index_errors(matter.get("model-index"))], []


def _field_errors(matter: dict[str, Any]) -> list[str]:
    errors = []
    if not _is_text(matter.get("license")):
        errors.append('"license" is required')
    for name in ("tags", "datasets", "base_model", "language", "metrics"):
        value = matter.get(name, [])
        if not _is_text(value) and not (isinstance(value, list) and all(map(_is_text, value))):
            errors.append(f'"{name}" must be a string or an array of strings')
    texts = [name for name in ("pipeline_tag", "library_name") if name in matter]
    return [*errors, *_missing(matter, "front matter", *texts)]


def _index_errors(index: Any) -> list[str]:
    """https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    if index is None:
        return []
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        place = f"model-index[{i}]"
        errors += _missing(model, place, "name")
        for j, result in enumerate(_rows(model, "results", place, errors)):
            at = f"{place}.results[{j}]"
            result = result if isinstance(result, dict) else {}
            errors += _missing(result.get("task"), f"{at}.task", "type")
            errors += _missing(result.get("dataset"), f"{at}.dataset", "name", "type")
            for k, metric in enumerate(_rows(result, "metrics", at, errors)):
                errors += _missing(metric, f"{at}.metrics[{k}]", "type")
                if not isinstance(metric, dict) or metric.get("value") is None:
                    errors.append(f'"{at}.metrics[{k}].value" is required')
    return errors


def _rows(owner: Any, name: str, place: str, errors: list[str]) -> list[Any]:
    rows = owner.get(name) if isinstance(owner, dict) else None
    if isinstance(rows, list) and rows:
        return rows
    errors.append(f'"{place}.{name}" must be an array that is not empty')
    return []


def _missing(owner: Any, place: str, *names: str) -> list[str]:
    owner = owner if isinstance(owner, dict) else {}
    return [f'"{place}.{name}" must be a string' for name in names if not _is_text(owner.get(name))]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
