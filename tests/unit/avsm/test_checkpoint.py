"""Checkpoints: there and back, and what is no checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from avsm.errors import UserError
from avsm.model import (
    AVSM,
    SUMS,
    describe_model,
    find_checkpoint,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from tests.unit.avsm.knees import SHAPE, TINY


def saved(folder: Path) -> tuple[AVSM, Path]:
    torch.manual_seed(0)
    model = AVSM(TINY)
    torch.nn.init.normal_(model.affine_net.last.weight)
    path = folder / "best.pt"
    save_checkpoint(path, describe_model(model, SHAPE, ("affine",)))
    return model, path


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model, path = saved(tmp_path)
    trained = load_model(tmp_path)
    assert trained.shape == SHAPE
    assert trained.trained == ("affine",)
    assert trained.model.config == TINY
    assert not trained.model.training
    for name, weight in model.affine_net.state_dict().items():
        assert torch.equal(weight, trained.model.affine_net.state_dict()[name])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [0, 0.3, 0.99])
def test_truncated_checkpoint_is_refused(tmp_path: Path, part: float) -> None:
    _, path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r"best\.pt: cannot be read as a checkpoint"):
        load_model(path)


def test_checkpoint_is_that_of_the_sums_beside_it(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = tmp_path / SUMS
    for listed in (f"{digest}  best.pt\n", f"{'0' * 64}  other.pt\n", ""):
        sums.write_text(listed)
        assert load_checkpoint(path)["trained"] == ["affine"]
    sums.write_text(f"{'0' * 64}  best.pt\n{digest}  other.pt\n")
    with pytest.raises(UserError, match=f"expected the SHA-256 {'0' * 64} of .*{digest}"):
        load_model(path)


def test_weights_in_half_precision_are_loaded(tmp_path: Path) -> None:
    model, path = saved(tmp_path)
    content = describe_model(model, SHAPE, ("affine",))
    content["weights"] = {name: weight.half() for name, weight in content["weights"].items()}
    save_checkpoint(path, content)
    found = load_model(path).model.state_dict()
    for name, weight in content["weights"].items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], weight.float())


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_checkpoint(path, {"format": 1, "bad": (value for value in ())})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"weights": 1}, other)
    with pytest.raises(UserError, match="expected a checkpoint of format 1, found None"):
        load_checkpoint(other)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        find_checkpoint(tmp_path / "none")


class Intruder:
    """What runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "best.pt", tmp_path / "trace"
    torch.save({"format": 1, "weights": Intruder(trace)}, path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the intruder is a real one
    assert trace.exists()


def test_weights_of_other_networks_are_refused(tmp_path: Path) -> None:
    model, path = saved(tmp_path)
    content = describe_model(model, SHAPE, ("affine",))
    content["weights"]["affine_net.last.bias"] = torch.zeros(13)
    save_checkpoint(path, content)
    with pytest.raises(UserError, match="do not fit the model"):
        load_model(path)
