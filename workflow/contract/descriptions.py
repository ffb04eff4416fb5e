"""Descriptions of methods and networks: YAML files that are checked, with parameters filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from avsm.errors import UserError, nearest
from workflow.schema import faults, load_schema, read_yaml


class Described(Protocol):
    """What methods and networks have in common."""

    id: str
    label: str
    requires: dict[str, list[str]]


def unknown_names(key: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return a fault for each name under a configuration key that is not known."""
    known = list(known)
    return [
        f"{key}: no {'network' if key == 'network_params' else 'method'} '{name}'"
        f"{nearest(name, known)}; available: {', '.join(known)}"
        for name in names
        if name not in known
    ]


def read_description(
    path: Path, shown: str, schema: str, changes: dict[str, Any], changed_in: str
) -> tuple[dict[str, Any], list[str]]:
    """Return a description with resolved parameters, and the faults of both.

    Parameters
    ----------
    path, shown : the file, and what to call it in messages.
    schema : of the file, by name.
    changes : what the configuration changes of the parameters' defaults.
    changed_in : the configuration's key that holds them.
    """
    if not path.is_file():
        return {}, [f"{shown}: no such file; docs/contract.md says what is in it"]
    try:
        description = read_yaml(path)
    except UserError as error:
        return {}, [str(error)]
    wrong = faults(description, load_schema(schema), shown)
    if wrong:
        return {}, wrong
    parameters = description.pop("parameters")
    defaults = {key: entry["default"] for key, entry in parameters.items()}
    params = defaults | changes
    rules = {"type": "object", "additionalProperties": False, "properties": parameters}
    return description | {"params": params, "defaults": defaults}, faults(params, rules, changed_in)


def shared_labels(described: Iterable[Described]) -> list[str]:
    """Return a fault for each label that occurs twice."""
    described = list(described)
    found = []
    for label, number in Counter(one.label for one in described).items():
        if number > 1:
            own = [one.id for one in described if one.label == label]
            found.append(f"label '{label}' is that of {' and '.join(own)}; expected one of each")
    return found
