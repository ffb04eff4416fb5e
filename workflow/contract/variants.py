"""Variants: a method or network once more, under another name and with other settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from avsm.errors import nearest

Variants = Mapping[str, Mapping[str, Any]]  # by name; each says what it is a variant `of`


def folder_of(name: str, variants: Variants) -> str:
    """Return the folder that a method or network is made of: for most, that of its name."""
    return variants[name]["of"] if name in variants else name


def variant_faults(key: str, variants: Variants, folders: Iterable[str]) -> list[str]:
    """Return a fault for each variant of nothing, and for each that bears a folder's name."""
    folders, found = list(folders), []
    for name, variant in variants.items():
        if name in folders:
            found.append(f"{key}.{name}: is the name of a folder; take another")
        if variant["of"] not in folders:
            known = f"available: {', '.join(folders)}"
            found.append(
                f"{key}.{name}.of: no '{variant['of']}'{nearest(variant['of'], folders)}; {known}"
            )
    return found


def changed(
    name: str, variants: Variants, of_folder: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is changed of a folder's defaults, for all that it makes and for the variant.

    Of parameters that are objects themselves, single entries are changed.

    Parameters
    ----------
    of_folder : the configuration's changes by folder, such as `method_params`.
    """
    result = dict(of_folder.get(folder_of(name, variants), {}))
    for key, value in variants.get(name, {}).get("params", {}).items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = result[key] | value if both else value
    return result


def relabelled(name: str, variants: Variants, description: dict[str, Any]) -> dict[str, Any]:
    """Return a description under the variant's label; the paper's row stays with the original."""
    if name not in variants or not description:
        return description
    own = {"label": variants[name].get("label", f"{description['label']} ({name})")}
    if "paper_row" in description:
        own["paper_row"] = None
    return description | own
