"""The harness: runs one method on a shard of pairs, keeps the clock and checks the results."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import SimpleITK as sitk

from workflow.contract.programs import find_program, run_program
from workflow.errors import ContractError
from workflow.geometry import describe_grid, same_grid
from workflow.images import read_image, write_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """What a method hands back for one pair.

    displacement : vector image on the fixed grid, mm, LPS: ``x_moving = x_fixed + u(x_fixed)``.
    warped : the moving image on the fixed grid as the *method itself* warps it; tests compare it
        with the image warped through `displacement`. Never scored.
    """

    displacement: sitk.Image
    warped: sitk.Image


@dataclass(frozen=True)
class Context:
    """What a method may know of the run besides its two images and its parameters."""

    threads: int
    seed: int
    folder: Path
    program_folders: tuple[str, ...] = ()

    def run(self, program: str, *arguments: str | Path | float) -> str:
        """Run an external program in this pair's own scratch folder; see `run_program`."""
        path = find_program(program, self.program_folders)
        return run_program([path, *map(str, arguments)], self.folder, self.threads)


@dataclass(frozen=True)
class Outcome:
    """How one directed registration went: seconds by the harness's clock, or why it failed."""

    task: str
    fixed: str
    moving: str
    status: str
    reason: str
    seconds: float | None


def set_threads(threads: int, seed: int) -> None:
    """Tell every tool its thread count and seed; call before ANTs or ITK filters first run."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["ANTS_RANDOM_SEED"] = str(seed)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def register_shard(
    module: ModuleType,
    params: dict,
    pairs: Sequence[tuple[str, str, str]],
    image_path: Callable[[str], str],
    fields: Path,
    context: Callable[[Path], Context],
) -> list[Outcome]:
    """Register directed pairs ``(task, fixed, moving)`` and write one field for each success.

    A pair that fails becomes an `Outcome` with its reason; the others go on. A field that breaks
    the contract is the method's fault in general, so it raises `ContractError`.
    """
    fields.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number, (task, fixed, moving) in enumerate(pairs, start=1):
        images = read_image(image_path(fixed)), read_image(image_path(moving))
        with tempfile.TemporaryDirectory(prefix="registration-") as scratch:
            outcome, displacement = _register_pair(
                module, images, params, context(Path(scratch)), (task, fixed, moving)
            )
        if displacement is not None:
            write_image(displacement, field_path(fields, fixed, moving))
        outcomes.append(outcome)
        note = f"{outcome.seconds:.2f} s" if outcome.seconds is not None else outcome.reason
        log.info("%d/%d %s <- %s %s: %s", number, len(pairs), fixed, moving, outcome.status, note)
    return outcomes


def field_path(fields: Path, fixed: str, moving: str) -> Path:
    """Return where the displacement field of a directed pair lies."""
    return fields / f"{fixed}__{moving}.nii"


def _register_pair(
    module: ModuleType,
    images: tuple[sitk.Image, sitk.Image],
    params: dict,
    context: Context,
    pair: tuple[str, str, str],
) -> tuple[Outcome, sitk.Image | None]:
    """Time one registration; the clock holds all a method needs for a pair but no image reading."""
    fixed, moving = images
    start = time.perf_counter()
    try:
        result = module.register(sitk.Image(fixed), sitk.Image(moving), dict(params), context)
        seconds = time.perf_counter() - start
    except Exception as error:  # one failed pair is data: it must not end the run
        log.exception("%s <- %s failed", pair[1], pair[2])
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(*pair, "failed", reason, None), None
    displacement = check_result(result, fixed, where=f"{pair[1]}__{pair[2]}")
    if not np.isfinite(sitk.GetArrayViewFromImage(displacement)).all():
        return Outcome(*pair, "failed", "displacement has values that are not finite", None), None
    return Outcome(*pair, "ok", "", seconds), displacement


def check_result(result: object, fixed: sitk.Image, where: str) -> sitk.Image:
    """Return the displacement of a method's result as float32, or raise `ContractError`."""
    if not isinstance(result, Registration):
        raise ContractError(
            f"{where}: register() returned {type(result).__name__}, expected Registration"
        )
    displacement = result.displacement
    if displacement.GetNumberOfComponentsPerPixel() != 3:
        raise ContractError(
            f"{where}: displacement has {displacement.GetNumberOfComponentsPerPixel()} components "
            "a voxel, expected 3 (mm, LPS)"
        )
    if not same_grid(displacement, fixed):
        raise ContractError(
            f"{where}: displacement is not on the fixed grid\n  found    "
            f"{describe_grid(displacement)}\n  expected {describe_grid(fixed)}"
        )
    displacement = sitk.Cast(displacement, sitk.sitkVectorFloat32)
    displacement.CopyInformation(fixed)
    return displacement


def write_outcomes(path: Path, outcomes: Sequence[Outcome], circumstances: dict) -> None:
    """Write a shard's JSON: the circumstances (method, device, …) and every outcome."""
    content = circumstances | {"registrations": [asdict(outcome) for outcome in outcomes]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
