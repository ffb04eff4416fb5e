"""Training of AVSM's momentum network, the affine one fixed."""

from functools import partial

from baselines.networks.affine.train import train as train_stage

train = partial(train_stage, stage="momentum")
