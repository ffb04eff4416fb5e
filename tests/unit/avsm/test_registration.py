"""Registration in physical space: direction, units and frames against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from avsm.errors import UserError
from avsm.fields import move_points, warp_image
from avsm.grid import normalise, resample_by_area, to_grid, whole_edges
from avsm.images import canonical
from avsm.maps import Affine, identity_map, resize, warp
from avsm.model import AVSM, TrainedModel
from avsm.physical import (
    grid_frame,
    mirror_map,
    normalised_affine,
    physical_affine,
    physical_displacement,
)
from avsm.registration import register, working_size
from tests.unit.avsm.knees import SHAPE, TINY

ROTATION = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.4)


def oblique(size, spacing, origin, flips=(1, 1, 1), order=(0, 1, 2)) -> sitk.Image:
    """Make an image of smooth random content with an oblique, permuted, flipped header."""
    generator = torch.Generator().manual_seed(sum(size))
    coarse = torch.rand(1, 1, 4, 4, 4, generator=generator)
    image = sitk.GetImageFromArray(resize(coarse, size[::-1])[0, 0].numpy())
    direction = np.asarray(ROTATION.GetMatrix()).reshape(3, 3)
    direction = (direction * flips)[:, list(order)]
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


FIXED = oblique((31, 22, 27), (0.9, 1.4, 2.1), (-40.0, 120.0, 33.0), (1, -1, 1), (2, 0, 1))
MOVING = oblique((18, 40, 25), (2.0, 0.7, 1.1), (210.0, -5.0, -70.0), (-1, 1, 1), (1, 2, 0))


def known_model(matrix: torch.Tensor, offset: torch.Tensor) -> TrainedModel:
    """Make a model that predicts a given affine map in its only step."""
    model = AVSM(TINY).eval()
    residual = torch.cat([(matrix - torch.eye(3)).flatten(), offset])
    with torch.no_grad():
        model.affine_net.last.bias.copy_(residual)
    return TrainedModel(model, SHAPE, ("affine",))


def corner_aligned(image: sitk.Image) -> np.ndarray:
    """Give the matrix (4, 4) from the model's coordinates (z, y, x) to mm, by SimpleITK alone.

    The grid covers the same field of view: a voxel of it is N / n of the image's.
    """
    image = canonical(image)
    grid = sitk.Image(SHAPE[::-1], sitk.sitkUInt8)
    grid.SetDirection(image.GetDirection())
    ratio = np.asarray(image.GetSize()) / grid.GetSize()
    grid.SetSpacing((np.asarray(image.GetSpacing()) * ratio).tolist())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((ratio / 2 - 0.5).tolist()))
    centre = (np.asarray(grid.GetSize()) - 1) / 2
    result = np.eye(4)
    result[:3, 3] = grid.TransformContinuousIndexToPhysicalPoint(centre.tolist())
    for column, axis in enumerate((2, 1, 0)):
        end = centre.copy()
        end[axis] *= 2
        point = grid.TransformContinuousIndexToPhysicalPoint(end.tolist())
        result[:3, column] = np.asarray(point) - result[:3, 3]
    return result


MATRIX = torch.tensor([[0.95, 0.06, -0.03], [-0.05, 1.08, 0.04], [0.02, -0.07, 0.97]])
OFFSET = torch.tensor([0.07, -0.11, 0.05])


def expected_transform(matrix: torch.Tensor, offset: torch.Tensor) -> sitk.AffineTransform:
    normalised = np.eye(4)
    normalised[:3, :3], normalised[:3, 3] = matrix.numpy(), offset.numpy()
    physical = corner_aligned(MOVING) @ normalised @ np.linalg.inv(corner_aligned(FIXED))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(physical[:3, :3].ravel())
    transform.SetTranslation(physical[:3, 3])
    return transform


def test_affine_parameters_go_to_physical_space_and_back() -> None:
    """On oblique, anisotropic, permuted grids; the same map as SimpleITK alone gives."""
    expected = expected_transform(MATRIX, OFFSET)
    physical = physical_affine(Affine(MATRIX[None], OFFSET[None]), FIXED, MOVING, SHAPE)
    np.testing.assert_allclose(physical[0].ravel(), expected.GetMatrix(), atol=1e-6)
    np.testing.assert_allclose(physical[1], expected.GetTranslation(), atol=1e-4)
    back = normalised_affine(*physical, FIXED, MOVING, SHAPE)
    np.testing.assert_allclose(back.matrix[0], MATRIX, atol=1e-6)
    np.testing.assert_allclose(back.offset[0], OFFSET, atol=1e-6)


def test_displacement_is_the_affine_transform_of_simpleitk() -> None:
    result = register(FIXED, MOVING, known_model(MATRIX, OFFSET), affine_steps=1, device="cpu")
    expected = sitk.TransformToDisplacementField(
        expected_transform(MATRIX, OFFSET),
        sitk.sitkVectorFloat64,
        FIXED.GetSize(),
        FIXED.GetOrigin(),
        FIXED.GetSpacing(),
        FIXED.GetDirection(),
    )
    assert result.displacement.GetSize() == FIXED.GetSize()
    assert result.displacement.GetDirection() == pytest.approx(FIXED.GetDirection())
    found, wanted = (sitk.GetArrayFromImage(i) for i in (result.displacement, expected))
    assert np.abs(wanted).max() > 100  # the headers lie far apart
    np.testing.assert_allclose(found, wanted, atol=1e-3)  # mm; float32 of some 200 mm


def test_warped_image_is_simpleitks_resampling() -> None:
    result = register(FIXED, MOVING, known_model(MATRIX, OFFSET), affine_steps=1, device="cpu")
    lowest = float(sitk.GetArrayFromImage(MOVING).min())
    transform = expected_transform(MATRIX, OFFSET)
    expected = sitk.Resample(MOVING, FIXED, transform, sitk.sitkLinear, lowest)
    found, wanted = (sitk.GetArrayFromImage(image) for image in (result.warped, expected))
    assert wanted.std() > 0.05
    # At the moving image's border a rounding may decide between inside and outside.
    assert np.mean(np.abs(found - wanted) > 1e-3) < 0.002


def test_identity_lays_one_field_of_view_on_the_other() -> None:
    model = known_model(torch.eye(3), torch.zeros(3))
    field = sitk.GetArrayFromImage(register(FIXED, MOVING, model, device="cpu").displacement)
    image = canonical(FIXED)
    corner = np.asarray(image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5)))
    frame, target = grid_frame(canonical(MOVING), SHAPE), grid_frame(image, SHAPE)
    edge = np.linalg.solve(target.matrix, corner - target.centre)
    np.testing.assert_allclose(edge, [-n / (n - 1) for n in SHAPE], rtol=1e-9)
    moved = frame.matrix @ edge + frame.centre
    wanted = canonical(MOVING).TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5))
    np.testing.assert_allclose(moved, wanted, atol=1e-9)
    assert np.isfinite(field).all()


def test_map_of_a_momentum_agrees_with_the_networks_own_warp() -> None:
    """On images of the model's own grid, SimpleITK's warp equals the library's."""
    fixed, moving = (oblique(SHAPE[::-1], (1.1, 2.0, 0.8), (i, 5.0, -3.0)) for i in (0.0, 30.0))
    fixed, moving = canonical(fixed), canonical(moving)
    shape = tuple(fixed.GetSize()[::-1])
    identity = identity_map(shape, torch.zeros(1))
    bend = 0.1 * torch.sin(3 * identity.flip(1)) * (1 - identity**2).prod(dim=1, keepdim=True)
    phi = identity + bend
    warped = warp_image(moving, physical_displacement(phi, fixed, moving))
    array = torch.from_numpy(sitk.GetArrayFromImage(moving))[None, None]
    expected = warp(array, phi)[0, 0].numpy()
    found = sitk.GetArrayFromImage(warped)
    np.testing.assert_allclose(found[1:-1, 1:-1, 1:-1], expected[1:-1, 1:-1, 1:-1], atol=1e-4)


def test_slabs_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    phi = identity_map(SHAPE, torch.zeros(1)) ** 3
    whole = sitk.GetArrayFromImage(physical_displacement(phi, FIXED, MOVING))
    monkeypatch.setattr("avsm.physical.SLAB_VOXELS", 1000)
    slabs = sitk.GetArrayFromImage(physical_displacement(phi, FIXED, MOVING))
    np.testing.assert_allclose(slabs, whole, atol=1e-3)


def test_mirrored_map_is_that_of_mirrored_images() -> None:
    identity = identity_map(SHAPE, torch.zeros(1))
    phi = identity + torch.tensor([0.1, 0.2, 0.3])[:, None, None, None]
    wanted = identity + torch.tensor([0.1, 0.2, -0.3])[:, None, None, None]
    torch.testing.assert_close(mirror_map(phi), wanted)
    image = resize(torch.rand(1, 1, 4, 4, 4), SHAPE)
    torch.testing.assert_close(
        warp(image.flip(-1), phi).flip(-1), warp(image, mirror_map(phi)), atol=1e-5, rtol=0
    )


def test_labels_keep_their_values() -> None:
    result = register(FIXED, MOVING, known_model(MATRIX, OFFSET), affine_steps=1, device="cpu")
    label = sitk.Cast(MOVING > 0.5, sitk.sitkUInt16) * 7
    warped = warp_image(label, result.displacement, label=True)
    assert warped.GetPixelID() == sitk.sitkUInt16
    assert set(np.unique(sitk.GetArrayFromImage(warped))) == {0, 7}


def test_refinement_brings_images_closer() -> None:
    model = known_model(torch.eye(3), torch.zeros(3))
    moving = sitk.Resample(FIXED, FIXED, sitk.TranslationTransform(3, (1.5, -1.0, 2.0)))
    plain, refined = (register(FIXED, moving, model, refine=n, device="cpu") for n in (0, 15))

    def error(result) -> float:
        difference = sitk.GetArrayFromImage(result.warped) - sitk.GetArrayFromImage(FIXED)
        return float(np.abs(difference[5:-5, 5:-5, 5:-5]).mean())

    assert error(refined) < 0.8 * error(plain)


def test_area_averaging_keeps_means_and_linear_ramps() -> None:
    array = np.random.default_rng(0).random((13, 20, 9)).astype(np.float32)
    small = resample_by_area(array, whole_edges(array.shape, (5, 7, 4)))
    assert small.mean() == pytest.approx(array.mean(), rel=1e-5)
    ramp = np.broadcast_to(np.arange(10, dtype=np.float32), (4, 4, 10))
    half = resample_by_area(ramp, whole_edges(ramp.shape, (4, 4, 5)))
    np.testing.assert_allclose(half[0, 0], [0.5, 2.5, 4.5, 6.5, 8.5])
    twice = resample_by_area(ramp, whole_edges(ramp.shape, (4, 4, 20)))
    np.testing.assert_allclose(twice[0, 0, 1:-1], np.arange(0.25, 9, 0.5), atol=1e-6)


def test_intensities_are_normalised_or_kept() -> None:
    array = np.linspace(-50, 500, 1000).reshape(10, 10, 10)
    scaled = normalise(array, "image")
    assert scaled.min() == 0 and scaled.max() == 1
    assert scaled.dtype == np.float32
    kept = to_grid(FIXED, SHAPE, "image", normalised=True)
    own = sitk.GetArrayFromImage(canonical(FIXED))
    expected = resample_by_area(own, whole_edges(own.shape, SHAPE))
    np.testing.assert_array_equal(kept, expected)


def test_wrong_images_are_refused() -> None:
    model = known_model(torch.eye(3), torch.zeros(3))
    constant = FIXED * 0
    with pytest.raises(UserError, match="moving image: found the intensities"):
        register(FIXED, constant, model, device="cpu")
    with pytest.raises(UserError, match=r"fixed image: expected intensities in \[0, 1\]"):
        register(FIXED * 3, MOVING, model, normalised=True, device="cpu")
    with pytest.raises(UserError, match="2 dimensions"):
        register(FIXED[:, :, 0], MOVING, model, device="cpu")
    with pytest.raises(UserError, match="affine steps: expected at least 1, found 0"):
        register(FIXED, MOVING, model, affine_steps=0, device="cpu")


# Landmarks


def bent_field() -> sitk.Image:
    """Make the field of a smooth map between two oblique images, far apart and turned."""
    identity = identity_map(SHAPE, torch.zeros(1))
    bend = 0.08 * torch.sin(3 * identity.flip(1)) * (1 - identity**2).prod(dim=1, keepdim=True)
    return physical_displacement(identity + bend, FIXED, MOVING)


def inner_points(image: sitk.Image, count: int = 20) -> np.ndarray:
    """Give points well inside of an image, mm, LPS."""
    parts = np.random.default_rng(0).uniform(0.25, 0.75, (count, 3))
    indices = parts * (np.asarray(image.GetSize()) - 1)
    return np.array([image.TransformContinuousIndexToPhysicalPoint(i.tolist()) for i in indices])


def test_landmarks_lie_where_the_warped_image_shows_them() -> None:
    """A bright spot of the moving image is seen, in the warped one, at the fixed landmark."""
    field = bent_field()
    for point in inner_points(FIXED, 5):
        (there,) = move_points(point[None], field)
        grid = [np.arange(n) for n in MOVING.GetSize()]
        spot = sitk.Image(MOVING.GetSize(), sitk.sitkFloat32)
        spot.CopyInformation(MOVING)
        centre = np.asarray(MOVING.TransformPhysicalPointToContinuousIndex(there.tolist()))
        x, y, z = np.meshgrid(*(g - c for g, c in zip(grid, centre, strict=True)), indexing="ij")
        array = np.exp(-(x**2 + y**2 + z**2) / 8).astype(np.float32)
        spot = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        spot.CopyInformation(MOVING)
        seen = sitk.GetArrayFromImage(warp_image(spot, field))
        brightest = np.unravel_index(seen.argmax(), seen.shape)[::-1]
        index = FIXED.TransformPhysicalPointToContinuousIndex(point.tolist())
        assert np.abs(np.subtract(brightest, index)).max() < 1.5


def test_inverse_landmarks_come_back() -> None:
    field, points = bent_field(), inner_points(FIXED)
    there = move_points(points, field)
    assert np.abs(there - points).max() > 100  # the images are far apart
    np.testing.assert_allclose(move_points(there, field, inverse=True), points, atol=0.02)


def test_landmarks_come_back_where_the_field_stretches_and_compresses() -> None:
    """To half the size and to 2.6 times: fixed-point iterations run away there."""
    index = np.stack(np.indices(FIXED.GetSize()), axis=-1).reshape(-1, 3)
    x = np.array([FIXED.TransformIndexToPhysicalPoint(i.tolist()) for i in index])
    u = 8 * np.tanh((x - x.mean(axis=0)) / 5) - 0.5 * (x - x.mean(axis=0))
    u = u.reshape(*FIXED.GetSize(), 3).transpose(2, 1, 0, 3)
    field = sitk.GetImageFromArray(u, isVector=True)
    field.CopyInformation(FIXED)
    points = inner_points(FIXED)
    there = move_points(points, field)
    np.testing.assert_allclose(move_points(there, field, inverse=True), points, atol=0.02)


def test_landmarks_near_the_border_come_back() -> None:
    field = bent_field()
    rng = np.random.default_rng(1)
    parts = rng.uniform(0.02, 0.98, (60, 3))
    parts[:, 0] = rng.choice([0.01, 0.99], 60)
    indices = parts * (np.asarray(FIXED.GetSize()) - 1)
    points = [FIXED.TransformContinuousIndexToPhysicalPoint(i.tolist()) for i in indices]
    there = move_points(np.array(points), field)
    np.testing.assert_allclose(move_points(there, field, inverse=True), points, atol=0.05)


def test_beyond_the_field_is_background() -> None:
    field = bent_field()
    wide = sitk.ConstantPad(FIXED, (5, 5, 5), (5, 5, 5))
    label = sitk.Cast(MOVING * 0 + 3, sitk.sitkUInt8)
    for moving, is_label in ((MOVING + 1, False), (label, True)):
        found = sitk.GetArrayFromImage(warp_image(moving, field, is_label, wide))
        inner = sitk.GetArrayFromImage(warp_image(moving, field, is_label))
        np.testing.assert_allclose(found[5:-5, 5:-5, 5:-5], inner, atol=1e-4)
        lowest = 0 if is_label else sitk.GetArrayFromImage(moving).min()
        assert (found[:5] == lowest).all() and (found[..., -5:] == lowest).all()
    far = sitk.Image(FIXED)
    far.SetOrigin((9000.0, 0.0, 0.0))
    with pytest.raises(UserError, match="reference: lies outside of the displacement field"):
        warp_image(MOVING, field, reference=far)


def test_beyond_the_field_nothing_is_shown_of_an_image_that_is_there() -> None:
    """Where the field says nothing it is not taken for 0."""
    field = sitk.GetImageFromArray(np.zeros((*FIXED.GetSize()[::-1], 3)), isVector=True)
    field.CopyInformation(FIXED)
    wide = sitk.ConstantPad(FIXED, (5, 5, 5), (5, 5, 5), 1.0)
    found = sitk.GetArrayFromImage(warp_image(wide, field, reference=wide, outside=-7.0))
    inner = found[5:-5, 5:-5, 5:-5]
    np.testing.assert_allclose(inner, sitk.GetArrayFromImage(FIXED), atol=1e-4)
    inner[:] = -7
    assert (found == -7).all()


def test_landmarks_outside_are_named() -> None:
    for inverse, image in ((False, FIXED), (True, MOVING)):
        points = np.vstack([inner_points(image, 1), [[0.0, 900.0, 0.0]]])
        with pytest.raises(UserError, match=r"point 2 at \[0\.0, 900\.0, 0\.0\] mm \(LPS\)"):
            move_points(points, bent_field(), inverse)


# Without a model

FRAME_OF_MOVING = oblique((44, 40, 46), (1.0, 1.1, 0.95), (3.0, -22.0, 7.0))


def test_pair_is_optimised_without_a_model() -> None:
    """A known affine and smooth displacement is found on images of two grids."""
    fixed = sitk.DiscreteGaussian(oblique((40, 36, 44), (1.0, 1.2, 0.9), (5.0, -20.0, 9.0)), 1.0)
    turn = sitk.Euler3DTransform(
        fixed.TransformContinuousIndexToPhysicalPoint((20, 18, 22)), 0.05, -0.04, 0.06, (2, -1, 1.5)
    )
    moving = sitk.Resample(fixed, FRAME_OF_MOVING, turn.GetInverse(), sitk.sitkLinear, 0.5)
    result = register(fixed, moving, size=(32, 32, 32), device="cpu")
    field = sitk.DisplacementFieldTransform(sitk.Cast(result.displacement, sitk.sitkVectorFloat64))
    errors = [
        np.linalg.norm(np.subtract(field.TransformPoint(p), turn.TransformPoint(p)))
        for p in inner_points(fixed).tolist()
    ]
    assert np.mean(errors) < 1.0  # mm; about 3 before


def test_options_of_networks_need_a_model() -> None:
    with pytest.raises(UserError, match="without a model the pair is optimised"):
        register(FIXED, MOVING, refine=3)
    with pytest.raises(UserError, match="refine_affine: expected iterations of refine"):
        register(FIXED, MOVING, refine_affine=True)
    with pytest.raises(UserError, match=r"size: expected three sides of 16 or more, found \(0,"):
        register(FIXED, MOVING, size=(0, 16, 16))
    with pytest.raises(UserError, match="size: a model has a grid of its own"):
        register(FIXED, MOVING, known_model(torch.eye(3), torch.zeros(3)), size=(20, 20, 20))


@pytest.mark.parametrize(
    ("size", "spacing", "most", "expected"),
    [
        ((30, 40, 50), (1.0, 1.0, 1.0), 10**6, (30, 40, 50)),
        ((384, 384, 160), (0.36, 0.36, 0.7), 3 * 10**6, None),
        ((256, 256, 10), (1.0, 1.0, 5.0), 10**5, None),
        ((4, 30, 30), (4.0, 1.0, 1.0), 10**6, (16, 30, 30)),
    ],
)
def test_working_grid_is_as_fine_as_it_may_be(size, spacing, most, expected) -> None:
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing(spacing)
    found = working_size(image, most)
    if expected:
        assert found == expected
    assert np.prod(found) <= most and np.prod(found) > 0.9 * min(most, np.prod(size))
    sides = np.multiply(size, spacing) / found  # cubes, but for voxels that are coarser themselves
    fine = [s for s, own, n in zip(sides, spacing, found, strict=True) if s > own * 1.1 and n > 16]
    assert not fine or max(fine) / min(fine) < 1.1
