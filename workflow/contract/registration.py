"""What a method is given and hands back, and how one pair is registered and checked."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.grid import describe_grid, same_grid
from workflow.contract.programs import find_program, run_program
from workflow.geometry import (
    affine_error,
    affine_from_stripped,
    affine_to_stripped,
    displacement_from_stripped,
    strip_header,
)

log = logging.getLogger(__name__)

Pair = tuple[str, str, str]  # task, fixed, moving
Affine = tuple[np.ndarray, np.ndarray]  # M (3, 3) and t (3,)


@dataclass(frozen=True)
class Registration:
    """What a method hands back for one pair."""

    # Vector image on the fixed grid, mm, LPS: x_moving = x_fixed + u(x_fixed).
    displacement: sitk.Image
    device: str = ""  # name of the accelerator that did the work; empty: the processor
    precision: str = ""  # of the networks that did it, such as bfloat16; empty: none, or not known
    # Of a map that is affine, x_moving = M x_fixed + t (mm, LPS), from which others may start.
    affine: Affine | None = None


@dataclass(frozen=True)
class Context:
    """What a method may know of the run besides its two images and its parameters."""

    threads: int
    seed: int
    folder: Path  # an empty scratch folder of this pair's own
    program_folders: tuple[str, ...] = ()
    prepared: Any = None  # what the method's `prepare` returned
    models: tuple[Path, ...] = ()  # the trained networks that method.yaml names, in its order
    start: Affine | None = None  # of the pair, by the method that method.yaml starts from

    def run(self, program: str, *arguments: str | Path | float) -> str:
        """Run an external program in the scratch folder; see `run_program`."""
        path = find_program(program, self.program_folders)
        return run_program([path, *map(str, arguments)], self.folder, self.threads)


@dataclass(frozen=True)
class Outcome:
    """How one directed registration went."""

    task: str
    fixed: str
    moving: str
    status: str = "ok"
    reason: str = ""  # why it failed
    seconds: float | None = None  # with those of the method that it starts from
    device: str = ""
    precision: str = ""
    affine: list[list[float]] | None = None  # that others may start from: rows of M, then t


def in_voxels(register: Callable[..., Registration]) -> Callable[..., Registration]:
    """Make a method's `register` see voxels where its parameter `unit_spacing` is true.

    It is then given images, and a start, without what headers say (spacing 1, origin 0, axes LPS),
    and what it returns is carried back to physical space.
    """

    @wraps(register)
    def in_its_frame(
        fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context
    ) -> Registration:
        if not params["unit_spacing"]:
            return register(fixed, moving, params, context)
        start = context.start and affine_to_stripped(*context.start, fixed, moving)
        images = strip_header(fixed), strip_header(moving)
        result = register(*images, params, replace(context, start=start))
        displacement = displacement_from_stripped(result.displacement, fixed, moving)
        affine = result.affine and affine_from_stripped(*result.affine, fixed, moving)
        return replace(result, displacement=displacement, affine=affine)

    return in_its_frame


def register_pair(
    register: Any, images: tuple[sitk.Image, sitk.Image], params: dict, context: Context, pair: Pair
) -> tuple[Outcome, sitk.Image | None]:
    """Time one call of a method's `register` and check its result.

    The clock holds all a method needs for a pair, but no reading of the images. An exception, or
    a field that is not finite, is a failed pair, with its reason and no field. A result that is no
    displacement field on the fixed grid is a fault of the method in general: a `UserError`.
    """
    fixed, moving = images
    start = time.perf_counter()
    try:
        result = register(sitk.Image(fixed), sitk.Image(moving), dict(params), context)
        seconds = time.perf_counter() - start
    except Exception as error:  # one failed pair is data: it must not end the run
        log.exception("%s <- %s failed", pair[1], pair[2])
        named = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        text = f"{named}{error}".replace(f"{context.folder}/", "")
        return Outcome(*pair, "failed", " ".join(text.split())), None
    displacement = check_result(result, fixed, where=f"{pair[1]}__{pair[2]}")
    if not np.isfinite(sitk.GetArrayViewFromImage(displacement)).all():
        return Outcome(*pair, "failed", "displacement has values that are not finite"), None
    affine = result.affine and np.vstack(result.affine).tolist()
    where = {"device": result.device, "precision": result.precision, "affine": affine}
    return Outcome(*pair, seconds=seconds, **where), displacement


def check_result(result: object, fixed: sitk.Image, where: str) -> sitk.Image:
    """Return the displacement of a method's result as float32, or raise `UserError`."""
    if not isinstance(result, Registration):
        raise UserError(
            f"{where}: register() returned {type(result).__name__}, expected Registration"
        )
    displacement = result.displacement
    if not isinstance(displacement, sitk.Image):
        raise UserError(
            f"{where}: displacement is a {type(displacement).__name__}, expected a SimpleITK image "
            "of vectors on the fixed grid (mm, LPS; workflow.geometry.vector_image makes one)"
        )
    if displacement.GetNumberOfComponentsPerPixel() != 3:
        raise UserError(
            f"{where}: displacement has {displacement.GetNumberOfComponentsPerPixel()} components "
            "a voxel, expected 3 (mm, LPS)"
        )
    if not same_grid(displacement, fixed):
        raise UserError(
            f"{where}: displacement is not on the fixed grid\n  found    "
            f"{describe_grid(displacement)}\n  expected {describe_grid(fixed)}"
        )
    displacement = sitk.Cast(displacement, sitk.sitkVectorFloat32)
    displacement.CopyInformation(fixed)
    if result.affine is not None:
        off = affine_error(*result.affine, displacement)
        if off > 0.01 * min(fixed.GetSpacing()):
            raise UserError(
                f"{where}: affine is {off:.2g} mm off the displacement at a corner of the grid, "
                "expected the same map: x_moving = M x_fixed + t in mm, LPS"
            )
    return displacement
