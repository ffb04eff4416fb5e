"""Training: the affine network, then the momentum network with the affine part fixed."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avsm.affine import Affine
from avsm.align import align_group
from avsm.checkpoint import (
    BEST,
    LAST,
    STAGES,
    describe_model,
    find_checkpoint,
    load_checkpoint,
    load_weights,
)
from avsm.config import AVSMConfig
from avsm.data import ImageStore
from avsm.device import find_device
from avsm.errors import choose
from avsm.history import Row
from avsm.initialise import he_weights
from avsm.model import AVSM
from avsm.objectives import Setup, batch_losses, draw_pairs
from avsm.pairs import read_cohort
from avsm.recipe import Recipe
from avsm.resume import check_same, digest, find_previous, load_previous
from avsm.stage import Learner, StageRun
from avsm.validate import Validation

log = logging.getLogger(__name__)


def train(
    manifest: str | Path,
    out: str | Path,
    recipe: Recipe,
    stages: Sequence[str] = STAGES,
    start: str | Path | None = None,
    labels: Sequence[int] | None = None,
    device: str = "auto",
    resume: bool = True,
    memory_gb: float = 8,
    couples: str | Path | None = None,
) -> Path:
    """Train a model on the scans of a manifest.

    The folder gets, for each stage, ``<stage>/best.pt`` (the weights with the best validation
    Dice) and ``<stage>/last.pt`` (to resume from), and ``history.csv`` and ``history.png``. A run
    that was killed goes on after its last epoch; on a processor it reaches exactly the losses of
    an unbroken one.

    Parameters
    ----------
    manifest
        CSV of preprocessed images, see ``manifest.read_manifest``: in [0, 1], all on one grid.
    out
        The folder.
    recipe
        The settings, see ``presets.recipe_preset``.
    stages
        ``affine``, ``momentum`` or both.
    start
        A model whose weights training starts from: the affine network for the stage ``momentum``
        alone (None takes the one in ``out``), or a warm start.
    labels
        Values of the structures that validation scores; None takes all but 0.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    resume
        Whether to go on with a run found in the folder; otherwise it starts anew.
    memory_gb
        Images that take more memory go to a file in the folder.
    couples
        CSV of the couples to train on, see ``pairs.read_couples``; None takes all there are.

    Returns
    -------
    Path
        The best checkpoint of the last stage.

    Raises
    ------
    UserError
        If manifest, images, couples, recipe or folder do not fit.
    """
    chosen = [name for name in STAGES if name in [choose("stage", s, STAGES) for s in stages]]
    out, place = Path(out), find_device(device)
    cohort = read_cohort(manifest, recipe.task, couples)
    previous = {name: find_previous(out / name / LAST, recipe, resume) for name in chosen}
    store = ImageStore(cohort.training, out, memory_gb, pinned=place.type == "cuda")
    scored = Validation(cohort.validation, recipe, store.shape, labels, place)
    data = {"scans": digest(cohort), "structures": list(scored.values)}
    for name, content in previous.items():
        if content is not None:
            check_same(out / name / LAST, "other data", content.get("data", {}), data)
    log.info(
        "%d training and %d validation scans of %s voxels (z, y, x); %d validation pairs, "
        "structures %s; device %s, %d threads",
        *(len(cohort.training), len(cohort.validation)),
        *("x".join(map(str, store.shape)), len(scored.pairs)),
        *(scored.values, place, torch.get_num_threads()),
    )
    model = _new_model(recipe, store.shape).to(place, memory_format=torch.channels_last_3d)
    rows: list[Row] = []
    if chosen == ["momentum"] and (out / "affine" / LAST).is_file():
        rows = load_checkpoint(out / "affine" / LAST)["rows"]
        start = start or out / "affine"
    trained = () if start is None else _warm_start(model, find_checkpoint(start))
    if chosen == ["momentum"] and "affine" not in trained:
        log.warning("the affine network is untrained: give a model to start from")
    poses = None
    for name in chosen:
        began = time.monotonic()
        trained = tuple(stage for stage in STAGES if stage in {*trained, name})
        if previous[name] is not None:
            load_previous(model, name, previous[name], out / name / LAST)
        if poses is None:
            poses = _align(store, recipe, name, place, previous[name])
        setup = Setup(recipe, model, store, cohort.sampler, place, poses)
        learner = _learner(setup, name, scored, trained, data)
        run = StageRun(learner, getattr(recipe, name), recipe, out / name, out, place, rows)
        rows = run.run(previous[name], spent=time.monotonic() - began)
        best = load_checkpoint(out / name / BEST)
        load_weights(model, best, out / name / BEST)
    if chosen == ["affine"] and (out / "momentum" / BEST).is_file():
        log.warning(
            "%s holds the affine network that it was trained with, not this one: train the "
            "momentum network anew, with --stage momentum --no-resume",
            out / "momentum" / BEST,
        )
    return out / chosen[-1] / BEST


def _learner(
    setup: Setup,
    name: str,
    validation: Validation,
    trained: tuple[str, ...],
    data: dict[str, Any],
) -> Learner:
    """Make one of the networks what is trained; the other stays as it is."""
    model = setup.model
    net = model.affine_net if name == "affine" else model.momentum_net
    model.requires_grad_(False)
    net.requires_grad_(True)
    return Learner(
        name,
        net,
        draw=partial(draw_pairs, setup, name),
        losses=partial(batch_losses, setup, name),
        score=lambda: validation.score(model, 0 if name == "affine" else None),
        describe=lambda: describe_model(model, setup.store.shape, trained),
        kept={"data": data, "poses": None if setup.poses is None else list(setup.poses)},
    )


def fit_grid(config: AVSMConfig, shape: Sequence[int]) -> AVSMConfig:
    """Turn the affine network's last grid so that its short sides lie along the images' short ones.

    The paper's grid, 3x6x6, is what halvings leave of 80x192x192 voxels with the slices first; of
    axes in another order it would keep too much of one and too little of another.
    """
    sides = sorted(config.affine.grid)
    order = sorted(range(3), key=lambda axis: shape[axis])
    grid = tuple(sides[order.index(axis)] for axis in range(3))
    return dataclasses.replace(config, affine=dataclasses.replace(config.affine, grid=grid))


def _new_model(recipe: Recipe, shape: Sequence[int]) -> AVSM:
    """Make the networks with weights that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = AVSM(fit_grid(recipe.model, shape))
        if recipe.he_weights:
            he_weights(model)
        return model


def _warm_start(model: AVSM, path: Path) -> tuple[str, ...]:
    content = load_checkpoint(path)
    before, now = content["model"], model.config.to_dict()
    for network in content["trained"]:
        check_same(path, f"another {network} network", before[network], now[network])
    load_weights(model, content, path)
    log.info("start from the weights of %s", path)
    return tuple(content["trained"])


def _align(
    store: ImageStore,
    recipe: Recipe,
    stage: str,
    device: torch.device,
    previous: dict | None,
) -> Affine | None:
    """Align the training images, or take their poses from the run to go on with."""
    wanted = any(phase.known for phase in getattr(recipe, stage).phases)
    if not recipe.alignment or not wanted:
        return None
    if previous is not None:
        return Affine(*previous["poses"])
    return align_group(store, recipe.alignment, device)
