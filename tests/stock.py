"""Run a file of this checkout as after `pip install 'artmodels[demo]'`: what only the tests install cannot be imported.

python tests/stock.py spaces/gallery/app.py
"""

import re
import runpy
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any, ClassVar

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def installed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Every distribution that pip installs for one, by what the distributions say that they require."""
    name = canonicalize_name(name)
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    try:
        needed = requires(name) or []
    except PackageNotFoundError:  # of another platform
        return set()
    found = {name}
    for requirement in map(Requirement, needed):
        environments = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            found |= installed(requirement.name, frozenset(requirement.extras), seen)
    return found


class Stock(PathFinder):
    """Finds modules as Python does, but for some."""

    hidden: ClassVar[set[str]] = set()

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        hidden = fullname.partition(".")[0] in cls.hidden
        return None if hidden else super().find_spec(fullname, path, target)


def absent() -> set[str]:
    """Names of modules that are here, but would not be."""
    stock = installed("artmodels", frozenset({"demo"}), set())
    return {
        module
        for module, owners in packages_distributions().items()
        if re.fullmatch(r"[A-Za-z]\w*", module) and not stock & set(map(canonicalize_name, owners))
    }


if __name__ == "__main__":
    Stock.hidden = absent()
    sys.meta_path[sys.meta_path.index(PathFinder)] = Stock
    sys.path[0] = str(ROOT)
    script = str(ROOT / sys.argv[1])
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")
