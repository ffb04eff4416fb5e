"""Training of AVSM's momentum network, the affine one fixed."""

from pathlib import Path

from baselines.tools.avsm_training import train_stage
from workflow.contract.training import Trained, Training


def train(manifest: Path, state: Path, params: dict, context: Training) -> Trained:
    """Train on the pairs of the context's task; what is in `state` is gone on with."""
    return train_stage("momentum", manifest, state, params, context)
