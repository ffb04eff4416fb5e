"""Named recipes: ``paper`` is section 3 of the paper, ``small`` is for a processor."""

from __future__ import annotations

import dataclasses

from avsm.config import AVSMConfig
from avsm.errors import choose
from avsm.pairs import TASKS
from avsm.recipe import Augmentation, Phase, Recipe, StageRecipe

AFFINE_STEPS = {"longitudinal": 3, "cross-subject": 5, "both": 5}  # multi-step training (section 3)
TASK_STEPS = 0  # stands for these in a preset


def recipe_preset(name: str, task: str = "cross-subject") -> Recipe:
    """Give the preset ``paper`` or ``small`` for a task, see ``pairs.TASKS``."""
    choose("task", task, TASKS)
    base = PRESETS[choose("preset", name, PRESETS)]
    phases = tuple(
        dataclasses.replace(phase, steps=phase.steps or AFFINE_STEPS[task])
        for phase in base.affine.phases
    )
    return dataclasses.replace(
        base, task=task, affine=dataclasses.replace(base.affine, phases=phases)
    )


# Training of one step first, then of several from its weights (section 3). The paper does not say
# how the epochs are shared.
PAPER_AFFINE = StageRecipe(phases=(Phase(until=0.5), Phase(steps=TASK_STEPS)))
PAPER_MOMENTUM = StageRecipe(phases=(Phase(steps=2),))

# Deviation: on a processor the paper's steps are too few to learn poses from the similarity alone.
# At first the affine map between the images is known, from their alignment with their mean and
# random poses: a clear signal, and cheap, as the network sees small images. Then the paper's losses
# take over. The momentum network starts from such maps too, disturbed: unlike the affine network's
# they are inverse to one another, so that Eq. 10 judges the momenta alone.
SMALL_AFFINE = StageRecipe(
    phases=(
        Phase(until=0.6, pairs=8, reduction=2, known=True),
        Phase(until=1.0, steps=TASK_STEPS, pairs=2, reduction=2),
    ),
    epochs=30,
    batches=100,
    rate=2e-3,
    schedule="cosine",
    warmup=0.02,
    clip=1.0,
)
SMALL_MOMENTUM = StageRecipe(
    phases=(Phase(until=0.4, known=True), Phase(steps=2, known=True)),
    epochs=24,
    batches=100,
    rate=3e-3,
    schedule="cosine",
    warmup=0.02,
    clip=1.0,
)
SMALL_AUGMENTATION = Augmentation(
    turn=0.1, stretch=0.06, shift=0.08, shape=0.015, gamma=0.15, bias=0.08, noise=0.02
)


PRESETS = {
    "paper": Recipe("paper", TASKS[0], AVSMConfig.preset("paper"), PAPER_AFFINE, PAPER_MOMENTUM),
    "small": Recipe(
        "small",
        TASKS[0],
        AVSMConfig.preset("small"),
        SMALL_AFFINE,
        SMALL_MOMENTUM,
        SMALL_AUGMENTATION,
        windows="dense",
        lambda_ar=0.0,
        alignment=150,
        he_weights=True,
        validation_pairs=16,
    ),
}
