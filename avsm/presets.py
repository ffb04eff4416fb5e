"""Named recipes: ``paper`` is the paper's networks and section 3; ``small`` is for a processor."""

from __future__ import annotations

import dataclasses

from avsm.errors import choose
from avsm.manifest import TASKS
from avsm.model_settings import AffineNetConfig, AVSMConfig, MomentumNetConfig
from avsm.settings import Augmentation, Phase, Recipe, Stage

# Affine steps of the last phase: multi-step training (section 3).
AFFINE_STEPS = {"longitudinal": 3, "cross-subject": 5, "both": 5}

PRESETS = {
    # Training of one affine step first, then of several from its weights (section 3). The paper
    # does not say how the epochs are shared.
    "paper": Recipe(
        "paper",
        TASKS[0],
        AVSMConfig(),
        affine=Stage(phases=(Phase(until=0.5), Phase(steps=5))),
        momentum=Stage(phases=(Phase(steps=2),)),
    ),
    # Deviation: for a processor. Both networks learn on images of half the resolution first, where
    # a batch costs an eighth, and the affine network on those alone.
    "small": Recipe(
        "small",
        TASKS[0],
        AVSMConfig(
            AffineNetConfig(scale=0.5, norm=True),
            MomentumNetConfig(norm=True, halvings=3),
            step_scales=(0.5, 1.0),
        ),
        affine=Stage(
            phases=(
                Phase(until=0.15, pairs=4, scale=0.5),
                Phase(until=0.5, steps=2, pairs=4, scale=0.5),
                Phase(until=0.8, steps=3, pairs=4, scale=0.5),
                Phase(steps=5, pairs=4, scale=0.5),
            ),
            epochs=16, batches=25, rate=1.5e-3, schedule="cosine", warmup=0.02, clip=1.0,
            average=0.99,
            more_batches=10,
        ),
        momentum=Stage(
            phases=(
                Phase(until=0.15, scale=0.5),
                Phase(until=0.45, steps=2, scale=0.5),
                Phase(steps=3),
            ),
            epochs=20, batches=25, rate=3e-3, schedule="cosine", warmup=0.02, clip=1.0,
            average=0.99,
            more_batches=8,
        ),
        augmentation=Augmentation(turn=0.07, stretch=0.03, shift=0.07, error=0.3),
        lambda_ar=1.0,
        decay_ar=2.0,
        lambda_as=0.1,
        windows="dense",
        every_step=True,
        start="inverse",
        he_weights=True,
        validation_pairs=16,
    ),
}  # fmt: skip


def recipe_preset(name: str, task: str = "cross-subject") -> Recipe:
    """Give the preset ``paper`` or ``small`` for a task, see ``pairs.TASKS``."""
    choose("task", task, TASKS)
    base = PRESETS[choose("preset", name, PRESETS)]
    *phases, last = base.affine.phases
    last = dataclasses.replace(last, steps=AFFINE_STEPS[task])
    affine = dataclasses.replace(base.affine, phases=(*phases, last))
    return dataclasses.replace(base, task=task, affine=affine)
