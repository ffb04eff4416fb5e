"""AVSM: affine steps, then vSVF steps that refine the map (Fig. 1); and the files of models.

Checkpoints are written aside and renamed, and read as plain data: no code is run.
"""

import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avsm.errors import UserError
from avsm.files import file_digest, written_aside
from avsm.images import ORIENTATION
from avsm.maps import Affine, downsample, half_shape, resize, warp
from avsm.networks import AffineNet, MomentumNet
from avsm.pairs import single_tasks
from avsm.settings import AVSMConfig
from avsm.vsvf import MultiGaussian, Step, vsvf_step

FORMAT = 1
BEST, LAST = "best.pt", "last.pt"
SUMS = "SHA256SUMS"  # beside checkpoints that are handed on: a line of digest and name for each
STAGES = ("affine", "momentum")
SHIPPED = {"knee": Path(__file__).resolve().parent.parent / "models" / "momentum.pt"}


class Registration(NamedTuple):
    """The result for a batch."""

    affines: tuple[Affine, ...]  # the composed affine parameters after each affine step
    steps: tuple[Step, ...]  # the vSVF steps; empty when none was asked for
    map: Tensor  # the final map, ``(B, 3, D, H, W)``
    warped: Tensor  # the moving image read at it, ``(B, 1, D, H, W)``


class AVSM(nn.Module):
    """Register pairs of images with both networks; the model is the paper's when None is given."""

    def __init__(self, config: AVSMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AVSMConfig()
        self.affine_net = AffineNet(config.affine, config.precision)
        self.momentum_net = MomentumNet(config.momentum, config.precision)
        self.smoother = MultiGaussian(config.sigmas, config.weights)

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        affine_steps: int | None = None,
        steps: int | None = None,
    ) -> Registration:
        """Register moving to fixed images ``(B, 1, D, H, W)``, intensities in [0, 1].

        None takes the configuration's numbers of affine steps (1 or more) and vSVF steps (0:
        affine).
        """
        affine_steps = self.config.affine_steps if affine_steps is None else affine_steps
        affines = self.affine_net(fixed, moving, affine_steps)
        steps = self.config.steps if steps is None else steps
        taken = self.vsvf_steps(fixed, moving, affines[-1], steps)
        if taken:
            return Registration(affines, taken, taken[-1].map, taken[-1].warped)
        phi = affines[-1].map(fixed.shape[2:])
        return Registration(affines, taken, phi, warp(moving, phi))

    def vsvf_steps(
        self, fixed: Tensor, moving: Tensor, start: Affine, steps: int, scale: float = 1.0
    ) -> tuple[Step, ...]:
        """Take vSVF steps from an affine map, on images of part ``scale`` of the resolution.

        Deviation: with ``config.step_scales`` the first see, and give maps of, less resolution,
        where the network reaches farther.
        """
        taken: list[Step] = []
        before = None
        for part in self.config.scales_of(steps, scale):
            if part == before:
                low, warped = taken[-1].low_map, taken[-1].warped
            else:
                seen, source = (downsample(image, part / scale) for image in (fixed, moving))
                shape = seen.shape[2:]
                low, phi = (
                    resize(taken[-1].map, size) if taken else start.map(size)
                    for size in (half_shape(shape), shape)
                )
                warped = warp(source, phi)
            taken.append(self.vsvf(self.momentum_net(warped, seen), low, source))
            before = part
        return tuple(taken)

    def vsvf(self, momentum: Tensor, low_map: Tensor, moving: Tensor) -> Step:
        """Refine a map on the momentum's grid, and warp the moving image by it (Fig. 3)."""
        velocity = self.smoother(momentum)  # v = K m
        solver = self.config.solver, self.config.solver_steps
        return vsvf_step(momentum, velocity, low_map, moving, *solver)


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, and the grid (D, H, W), axes RAS+, that it was trained on."""

    model: AVSM
    shape: tuple[int, int, int]
    trained: tuple[str, ...] = STAGES  # which of the networks were


def load_model(path: str | Path) -> TrainedModel:
    """Load a model by its checkpoint or training folder; UserError if weights do not fit."""
    path = find_checkpoint(path)
    content = load_checkpoint(path)
    if "model" not in content:
        raise UserError(f"{path}: expected a model of AVSM, found {content.get('kind', 'another')}")
    if content["orientation"] != ORIENTATION:
        raise UserError(
            f"{path}: expected axes {ORIENTATION}, found {content['orientation']}; train anew"
        )
    model = AVSM(AVSMConfig.from_dict(content["model"]))
    load_weights(model, content, path)
    depth, height, width = content["shape"]
    return TrainedModel(model.eval(), (depth, height, width), tuple(content["trained"]))


def load_weights(model: AVSM, content: Mapping[str, Any], path: str | Path) -> None:
    """Put the networks that a checkpoint was trained for into a model; others stay as they are."""
    own, trained = model.state_dict(), content["trained"]
    others = _weights_of([name for name in STAGES if name not in trained], own)
    try:
        model.load_state_dict(others | _weights_of(trained, content["weights"]))
    except RuntimeError as error:
        raise UserError(
            f"{path}: its weights do not fit the model ({str(error).splitlines()[-1].strip()}); "
            "expected the same preset and sizes"
        ) from error


def describe_model(
    model: AVSM, shape: tuple[int, int, int], trained: tuple[str, ...]
) -> dict[str, Any]:
    """Give all that is needed to register with a model, as plain data: no untrained weights."""
    return {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "shape": list(shape),
        "orientation": ORIENTATION,
        "trained": list(trained),
        "weights": _weights_of(trained, model.state_dict()),
    }


def _weights_of(networks: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    prefixes = tuple(f"{name}_net." for name in networks)
    return {name: weight for name, weight in weights.items() if name.startswith(prefixes)}


def describe_file(path: str | Path) -> str:
    """Give what a model is and how it was trained, line by line."""
    path = find_checkpoint(path)
    content = load_checkpoint(path)
    if "model" not in content:
        return f"{path}\n  {content.get('kind', 'no model of AVSM')}"
    config = AVSMConfig.from_dict(content["model"])
    depth, height, width = content["shape"]
    weights = _weights_of(content["trained"], content["weights"])
    lines = {
        "networks": f"{' and '.join(content['trained'])}, trained",
        "weights": f"{sum(weight.numel() for weight in weights.values()):,}",
        "grid": f"{width}x{height}x{depth} voxels (x, y, z), axes {content['orientation']}+",
        "steps": f"{config.affine_steps} affine, {config.steps} vSVF",
        "smoothing": f"sigmas {list(config.sigmas)}, weights {list(config.weights)}",
    }
    if recipe := content.get("recipe"):
        tasks = " and ".join(single_tasks(recipe["task"]))
        lines["trained for"] = f"{tasks} pairs, preset {recipe['preset']}"
    if recipe and content.get("rows"):
        own = next(row for row in content["rows"] if row["epoch"] == content["epoch"])
        stage = recipe[content["stage"]]
        minutes, epochs = stage["max_minutes"], stage["epochs"]
        whole = f"{minutes} min" if minutes else f"epoch {epochs}"
        lines["training"] = (
            f"{content['stage']} network up to epoch {own['epoch']}, "
            f"{content['seconds'] / 60:.1f} min, of training up to {whole}; {content['precision']}"
        )
        lines["validation"] = f"Dice {own['validation_dice']:.3f}"
        if own["epoch"] == 0:
            lines["validation"] += ", as before the training: no epoch was better"
    return "\n".join([str(path), *(f"  {name:12}{value}" for name, value in lines.items())])


def find_checkpoint(path: str | Path) -> Path:
    """Give the best weights of a path, a file or a training folder; ``knee`` are those shipped."""
    path = Path(path)
    if str(path) in SHIPPED and not path.exists():
        path = SHIPPED[str(path)]
    candidates = [path, path / BEST, path / "momentum" / BEST, path / "affine" / BEST]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    what = "holds no" if path.is_dir() else "no such file or folder; expected a"
    raise UserError(f"{path}: {what} checkpoint ({', '.join(map(str, candidates[1:]))})")


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write aside, then rename: ``path`` holds the old checkpoint or the new one, never half."""
    with written_aside(path) as aside, aside.open("wb") as stream:
        torch.save(dict(content), stream)
        stream.flush()
        os.fsync(stream.fileno())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the processor's memory; UserError if it is none or damaged.

    Where ``SHA256SUMS`` beside it lists it, its sum is compared.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; expected a file that `avsm train` wrote")
    _check_sum(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({reason}). It may be cut short or of another "
            "program: fetch it again or train anew."
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: expected a checkpoint of format {FORMAT}, found {found}")
    return content


def _check_sum(path: Path) -> None:
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return
    lines = sums.read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line)}
    found = file_digest(path)
    if listed.get(path.name, found) != found:
        raise UserError(
            f"{path}: expected the SHA-256 {listed[path.name]} of {sums}, found {found}; "
            "it is damaged or was changed: fetch it again"
        )
