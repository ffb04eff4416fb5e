"""Training: the affine network, then the momentum network with the affine part fixed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from avsm.affine import Affine
from avsm.align import align_group
from avsm.checkpoint import (
    BEST,
    LAST,
    STAGES,
    find_checkpoint,
    load_checkpoint,
    load_weights,
)
from avsm.config import AVSMConfig
from avsm.data import ImageStore, label_values, read_labels
from avsm.device import find_device
from avsm.errors import UserError, choose
from avsm.history import Row
from avsm.initialise import he_weights
from avsm.model import AVSM
from avsm.objectives import Setup
from avsm.pairs import PairSampler, Scan, read_manifest, validation_pairs
from avsm.recipe import Recipe, flat
from avsm.stage import StageRun
from avsm.validate import Score, validate

log = logging.getLogger(__name__)
MAY_CHANGE = ("epochs", "max_minutes")  # settings that a resumed run may change


class Validation:
    """The validation pairs, ready to score a model.

    Parameters
    ----------
    scans
        Validation scans; those with label maps make the pairs.
    recipe
        Task, number of pairs and seed.
    shape
        (D, H, W) of the training images.
    values
        The structures to score; None takes all.
    device
        Of the model.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        shape: tuple[int, int, int],
        values: Sequence[int] | None,
        device: torch.device,
    ) -> None:
        pairs = validation_pairs(scans, recipe.task, recipe.validation_pairs, recipe.seed)
        used = sorted({index for pair in pairs for index in pair})
        scans = [scans[index] for index in used]
        store = ImageStore(scans, Path(), memory_gb=float("inf"))
        if store.shape != shape:
            raise UserError(
                f"{scans[0].image}: expected the training images' grid (z, y, x) {shape}, "
                f"found {store.shape}"
            )
        labels = read_labels(scans, shape)
        self.values = label_values(labels, values)
        self.precision = recipe.precision
        self.pairs = [(used.index(fixed), used.index(moving)) for fixed, moving in pairs]
        self.labels = [(labels[fixed], labels[moving]) for fixed, moving in self.pairs]
        self.store, self.device = store, device

    def score(self, model: AVSM, steps: int | None) -> Score:
        """Score a model; with 0 steps its affine network alone."""
        images = [
            tuple(self.store.batch([index], 1, self.device) for index in pair)
            for pair in self.pairs
        ]
        return validate(model, images, self.labels, self.values, steps, self.precision)


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
) -> Path:
    """Train a model on the scans of a manifest.

    The folder gets, for each stage, ``<stage>/best.pt`` (the weights with the best validation
    Dice) and ``<stage>/last.pt`` (to resume from), and ``history.csv`` and ``history.png``. A run
    that was killed goes on after its last epoch; on a processor it reaches exactly the losses of
    an unbroken one.

    Parameters
    ----------
    manifest
        CSV of preprocessed images, see ``pairs.read_manifest``: in [0, 1], all on one grid.
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

    Returns
    -------
    Path
        The best checkpoint of the last stage.

    Raises
    ------
    UserError
        If manifest, images, recipe or folder do not fit.
    """
    chosen = [name for name in STAGES if name in [choose("stage", s, STAGES) for s in stages]]
    out, place = Path(out), find_device(device)
    scans = read_manifest(manifest)
    training = [scan for scan in scans if scan.split == "train"]
    validation = [scan for scan in scans if scan.split == "validation"]
    sampler = PairSampler(training, recipe.task)
    previous = {name: _previous(out / name / LAST, recipe, resume) for name in chosen}
    store = ImageStore(training, out, memory_gb)
    scored = Validation(validation, recipe, store.shape, labels, place)
    log.info(
        "%d training and %d validation scans of %s voxels (z, y, x); %d validation pairs, "
        "structures %s; device %s, %d threads",
        *(len(training), len(validation), "x".join(map(str, store.shape)), len(scored.pairs)),
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
        trained = tuple(stage for stage in STAGES if stage in {*trained, name})
        if poses is None:
            poses = _align(store, recipe, name, place, previous[name])
        setup = Setup(recipe, model, store, sampler, place, poses)
        description = {"shape": store.shape, "trained": trained}
        run = StageRun(name, setup, scored, out, rows, description)
        rows = run.run(previous[name])
        best = load_checkpoint(out / name / BEST)
        load_weights(model, best, out / name / BEST)
    return out / chosen[-1] / BEST


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
    load_weights(model, content, path)
    log.info("start from the weights of %s", path)
    return tuple(content["trained"])


def _previous(path: Path, recipe: Recipe, resume: bool) -> dict | None:
    """Give the checkpoint to go on with, if there is one of the same recipe."""
    if not resume or not path.is_file():
        return None
    content = load_checkpoint(path)
    before, now = flat(content["recipe"]), flat(recipe.to_dict())
    changed = [
        f"{name}: {before.get(name)} before, {now.get(name)} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and name.split(".")[-1] not in MAY_CHANGE
    ]
    if changed:
        listed = "\n".join(f"  - {line}" for line in changed)
        raise UserError(
            f"{path}: a run with another recipe:\n{listed}\n"
            "Resume with that recipe, choose another folder, or start anew (--no-resume)."
        )
    return content


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
