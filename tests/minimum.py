"""The lowest versions that pyproject.toml allows, as pip constraints: what `make test-min` installs.

torch is left out: it stays the build that constraints.txt names, because older ones may not exist for a machine.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
needed = [*project["dependencies"], *extras["curate"], *extras["report"], *extras["serve"], *extras["demo"]]
for name, version in (found.groups() for found in map(re.compile(r"([\w-]+)>=([\d.]+)").match, needed) if found):
    if name != "torch":
        sys.stdout.write(f"{name}=={version}\n")
