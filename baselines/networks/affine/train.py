"""Training of AVSM's affine network."""

from pathlib import Path

from baselines.tools.avsm_training import train_stage
from workflow.contract.training import Trained, Training


def train(manifest: Path, state: Path, params: dict, context: Training) -> Trained:
    """Train on the pairs of the context's task; what is in `state` is gone on with."""
    return train_stage("affine", manifest, state, params, context)
