"""Where methods and networks lie, and how their code is imported."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from avsm.errors import UserError

BASELINES = Path(__file__).resolve().parents[2] / "baselines"
NETWORKS = BASELINES / "networks"


def load_function(folder: Path, function: str) -> ModuleType:
    """Import a folder's `<function>.py`, which defines it; other files are its siblings.

    `from .network import Network` in it finds `network.py` beside it.
    """
    path = folder / f"{function}.py"
    name = f"{function}_{folder.name.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise UserError(f"{path}: no function '{function}'; see docs/contract.md")
    return module
