"""What a training run may go on from: the same recipe, data and affine network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avsm.checkpoint import load_checkpoint, load_weights
from avsm.errors import UserError
from avsm.model import AVSM
from avsm.pairs import Cohort
from avsm.recipe import Recipe, flat

MAY_CHANGE = ("epochs", "max_minutes")  # settings that a resumed run may change


def find_previous(path: Path, recipe: Recipe, resume: bool) -> dict | None:
    """Give the checkpoint to go on with, if there is one of the same recipe."""
    if not resume or not path.is_file():
        return None
    content = load_checkpoint(path)
    check_same(path, "another recipe", content["recipe"], recipe.to_dict())
    return content


def check_same(path: Path, what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError, and list what differs, unless a checkpoint was made with the same settings.

    Those of ``MAY_CHANGE`` may differ.
    """
    before, now = flat(before), flat(now)
    changed = [
        f"  - {name}: {before.get(name)} before, {now.get(name)} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and name.split(".")[-1] not in MAY_CHANGE
    ]
    if changed:
        raise UserError(
            f"{path}: made with {what}:\n" + "\n".join(changed) + "\n"
            "Give the same as before, choose another folder, or start anew (--no-resume)."
        )


def load_previous(model: AVSM, stage: str, content: dict[str, Any], path: Path) -> None:
    """Load what a stage goes on from; a momentum network goes with its own affine network only."""
    weights = content["weights"]
    if stage == "momentum" and any(
        not torch.equal(weight.cpu(), weights[f"affine_net.{name}"])
        for name, weight in model.affine_net.state_dict().items()
    ):
        raise UserError(
            f"{path}: its affine network is not the one to go on with, which was trained since, "
            "or given by --start. Train the momentum network anew: --stage momentum --no-resume"
        )
    load_weights(model, content, path)


def digest(cohort: Cohort) -> str:
    """Tell cohorts apart, by scans and listed couples, wherever their folder is."""
    rows: list[tuple[str, ...]] = sorted(
        (s.split, s.subject, s.visit, s.side, s.image.name, s.label.name if s.label else "")
        for s in (*cohort.training, *cohort.validation)
    )
    rows += [
        (task, *(cohort.training[index].image.name for index in couple))
        for task, couples in cohort.listed.items()
        for couple in couples
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
