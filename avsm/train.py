"""Training of AVSM: the affine network, then the momentum network with the affine part fixed."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsm.data import Data, Pairs, Source, read_data
from avsm.device import find_device
from avsm.errors import UserError, choose
from avsm.losses import (
    affine_losses,
    affine_regularisation_weight,
    level_windows,
    mk_lncc_loss,
    ncc_loss,
    step_losses,
    sum_losses,
)
from avsm.maps import Affine, both_ways, compose_affine, warp
from avsm.model import (
    AVSM,
    BEST,
    LAST,
    STAGES,
    describe_model,
    find_checkpoint,
    load_checkpoint,
    load_weights,
)
from avsm.networks import AffineNet
from avsm.pairs import random_affine, random_start
from avsm.settings import AVSMConfig, Phase, Recipe
from avsm.trainer import Row, Task, Trainer, check_same

log = logging.getLogger(__name__)
Named = dict[str, Tensor]


def train(
    manifest: str | Path,
    out: str | Path,
    recipe: Recipe,
    stages: Sequence[str] = STAGES,
    start: Sequence[str | Path] = (),
    labels: Sequence[int] | None = None,
    device: str = "auto",
    resume: bool = True,
    memory_gb: float = 8,
    couples: str | Path | None = None,
    source: Source | None = None,
) -> Path:
    """Train a model on the scans of a manifest; return the best checkpoint of the last stage.

    ``<out>/<stage>/best.pt`` has the weights of the best validation Dice, ``last.pt`` what a killed
    run goes on from, unless ``resume`` is off; ``<out>`` has ``history.csv`` and ``history.png``. A
    resumed run reaches exactly the losses of an unbroken one on a processor.

    ``manifest`` is a CSV of preprocessed images (``manifest.read_manifest``), in [0, 1] and on one
    grid, ``couples`` one of those to train on (``pairs.read_couples``), None for all; a ``source``
    gives other training images. Images beyond ``memory_gb`` go to a file in the folder. ``labels``
    are the values that validation scores, None for all but 0. Weights start from the models
    ``start``, each with the networks that it was trained for; the stage ``momentum`` alone starts
    with the affine network in ``out``. A UserError says what of these does not fit.
    """
    chosen = [name for name in STAGES if name in [choose("stage", s, STAGES) for s in stages]]
    out, place = Path(out), find_device(device)
    previous = {name: _find_previous(out / name / LAST, recipe, resume) for name in chosen}
    data = read_data(manifest, recipe, out, place, labels, couples, source, memory_gb)
    model = new_model(recipe).to(place, memory_format=torch.channels_last_3d)
    rows: list[Row] = []
    if chosen == ["momentum"] and (out / "affine" / LAST).is_file():
        rows = load_checkpoint(out / "affine" / LAST)["rows"]
        start = start or [out / "affine"]
    trained: set[str] = set()
    for path in map(find_checkpoint, start):
        trained |= _warm_start(model, path)
    if chosen == ["momentum"] and "affine" not in trained:
        log.warning("the affine network is untrained: give a model to start from")
    for name in chosen:
        folder = out / name
        trained |= {name}
        if previous[name] is not None:
            _load_previous(model, name, previous[name], folder / LAST, trained)
        task = _task(model, name, recipe, data, tuple(s for s in STAGES if s in trained))
        stage, precision = getattr(recipe, name), recipe.model.precision
        trainer = Trainer(task, stage, recipe.seed, folder, out, place, precision, rows)
        rows = trainer.run(previous[name])
        load_weights(model, load_checkpoint(folder / BEST), folder / BEST)
    if chosen == ["affine"] and (out / "momentum" / BEST).is_file():
        log.warning(
            "%s holds the affine network that it was trained with, not this one: train the "
            "momentum network anew, with --stage momentum --no-resume",
            out / "momentum" / BEST,
        )
    return out / chosen[-1] / BEST


def _task(model: AVSM, name: str, recipe: Recipe, data: Data, trained: tuple[str, ...]) -> Task:
    """Make one of the networks what is trained; the other stays as it is."""
    net = model.affine_net if name == "affine" else model.momentum_net
    model.requires_grad_(False)
    net.requires_grad_(True)
    losses_of = affine_stage if name == "affine" else momentum_stage

    def losses(pairs: Pairs, *when: Any) -> Named:
        return losses_of(model, pairs, recipe, *when)

    def find_map(fixed: Tensor, moving: Tensor) -> Tensor:
        return model(fixed, moving, steps=0 if name == "affine" else None).map

    def describe() -> dict[str, Any]:
        return describe_model(model, data.source.shape, trained) | {"recipe": recipe.to_dict()}

    return Task(name, net, data, losses, find_map, describe)


def affine_stage(
    model: AVSM, pairs: Pairs, recipe: Recipe, phase: Phase, epoch: int, generator: torch.Generator
) -> Named:
    """Give the losses of stage 1 (Eq. 6) by name, on the map of the last affine step.

    Deviation: with ``recipe.every_step`` the similarity is the mean over the maps of all steps.
    """
    fixed, moving = pairs.fixed, pairs.moving
    start = random_start(len(fixed) // 2, recipe.augmentation, generator)
    count, shape = min(phase.steps, model.config.affine_steps), fixed.shape[2:]
    affines = model.affine_net(fixed, moving, count, start and start.to(fixed), phase.scale)
    similarity = torch.stack(
        [
            similarity_loss(warp(pairs.judged_moving, a.map(shape)), pairs.judged_fixed, recipe)
            for a in (affines if recipe.every_step else affines[-1:])
        ]
    ).mean(dim=0)
    weight = affine_regularisation_weight(epoch, recipe.lambda_ar, recipe.decay_ar)  # Eq. 13
    return affine_losses(similarity, affines[-1], weight, recipe.lambda_as)._asdict()


def momentum_stage(
    model: AVSM, pairs: Pairs, recipe: Recipe, phase: Phase, epoch: int, generator: torch.Generator
) -> Named:
    """Give the losses of stage 2 by name: those of all vSVF steps (Eq. 12)."""
    fixed, moving = pairs.fixed, pairs.moving
    start = deformable_start(
        model.affine_net, fixed, moving, model.config.affine_steps, recipe, phase.scale, generator
    )
    count = min(phase.steps, model.config.steps)
    steps = model.vsvf_steps(fixed, moving, start, count, phase.scale)
    parts = model.config.scales_of(count, phase.scale)
    levels = {part: pairs.scaled(part / phase.scale) for part in parts}
    losses = []
    for step, own in zip(steps, map(levels.get, parts), strict=True):
        similarity = similarity_loss(own.judged(step.warped, step.map), own.judged_fixed, recipe)
        weights = recipe.lambda_vr, recipe.lambda_vs
        losses.append(step_losses(similarity, step.low_map, step.momentum, step.velocity, *weights))
    return sum_losses(losses)._asdict()  # Eq. 12


@torch.no_grad()
def deformable_start(
    net: AffineNet,
    fixed: Tensor,
    moving: Tensor,
    steps: int,
    recipe: Recipe,
    scale: float,
    generator: torch.Generator,
) -> Affine:
    """Give the affine maps from which the deformable part of a batch of both directions starts.

    Deviation: with ``recipe.start`` "inverse" the backward ones are the forward ones' inverses,
    both disturbed alike. The network's own are not, and Eq. 10 would make the momenta mend that.
    """
    if recipe.start == "network":
        return net(fixed, moving, steps, scale=scale)[-1]
    half = len(fixed) // 2
    forward = net(fixed[:half], moving[:half], steps, scale=scale)[-1]
    error = random_affine(half, recipe.augmentation, generator, recipe.augmentation.error)
    return both_ways(compose_affine(forward, error.to(fixed)))


def similarity_loss(warped: Tensor, fixed: Tensor, recipe: Recipe) -> Tensor:
    """Give the recipe's similarity loss of each item, ``(B,)``."""
    if recipe.similarity == "ncc":
        return ncc_loss(warped, fixed, recipe.squared)
    windows = level_windows(fixed.shape[2:], 1.0, recipe.windows)  # the same on all images
    return mk_lncc_loss(warped, fixed, windows, recipe.squared)


def new_model(recipe: Recipe) -> AVSM:
    """Make the networks with weights that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = AVSM(recipe.model)
        if recipe.he_weights:
            he_weights(model)
        return model


@torch.no_grad()
def he_weights(net: nn.Module) -> None:
    """Draw the weights after He et al. (2015): each layer keeps the size of the signal.

    PyTorch's shrink it to a half or less in each layer, while biases stay: behind six layers the
    features of two images differ by a thousandth. All-zero layers stay so.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d | nn.Linear) and layer.weight.any():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


def _find_previous(path: Path, recipe: Recipe, resume: bool) -> dict[str, Any] | None:
    """Give the checkpoint to go on with, if there is one of the same recipe."""
    if not resume or not path.is_file():
        return None
    content = load_checkpoint(path)
    before = Recipe.from_dict(content["recipe"]).to_dict()  # and what earlier versions did not say
    check_same(path, "another recipe", before, recipe.to_dict())
    return content


def _load_previous(
    model: AVSM, stage: str, content: dict[str, Any], path: Path, trained: set[str]
) -> None:
    """Load what a stage goes on from; a momentum network goes with its own affine network only."""
    theirs = content["weights"]
    if stage == "momentum" and (
        ("affine" in trained) != ("affine" in content["trained"])
        or any(
            not torch.equal(weight.cpu(), theirs.get(f"affine_net.{name}", weight.cpu()))
            for name, weight in model.affine_net.state_dict().items()
        )
    ):
        raise UserError(
            f"{path}: its affine network is not the one to go on with, which was trained since, "
            "or given by --start. Train the momentum network anew: --stage momentum --no-resume"
        )
    load_weights(model, content, path)


def _warm_start(model: AVSM, path: Path) -> set[str]:
    """Take over those networks of a model that were trained; return their names."""
    content = load_checkpoint(path)
    before, now = AVSMConfig.from_dict(content["model"]).to_dict(), model.config.to_dict()
    for network in content["trained"]:
        check_same(path, f"another {network} network", before[network], now[network])
    load_weights(model, content, path)
    log.info("start from the weights of %s", path)
    return set(content["trained"])
