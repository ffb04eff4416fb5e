"""True correspondence of the phantom's scans: where a voxel lies in the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from workflow.data.phantom import scan_to_template
from workflow.data.scan import PHANTOM_VISITS, Scan
from workflow.geometry import index_to_physical


@dataclass(frozen=True)
class PhantomTruth:
    """Knows all scans of a phantom cohort.

    scans : by name.
    seed : of the population.
    mirror_left : whether preprocessing made left knees right ones.
    """

    scans: Mapping[str, Scan]
    seed: int
    mirror_left: bool

    def to_template(
        self, name: str, grid: sitk.Image
    ) -> Callable[[np.ndarray], NDArray[np.float64]]:
        """Return the map from voxel indices ``(N, 3)`` of a preprocessed scan to the template, mm.

        Components are (x, y, z).
        """
        scan = self.scans[name]
        matrix, origin = index_to_physical(grid)
        mirrored = self.mirror_left and scan.side == "left"
        last = grid.GetSize()[0] - 1
        subject, visit = int(scan.subject[1:]), PHANTOM_VISITS.index(scan.visit)

        def points(index: np.ndarray) -> np.ndarray:
            own = np.array(index, dtype=float)
            if mirrored:  # the anatomy was flipped under an unchanged header
                own[:, 0] = last - own[:, 0]
            return scan_to_template(own @ matrix.T + origin, subject, visit, scan.side, self.seed)

        return points
