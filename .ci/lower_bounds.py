"""Print a pip constraints file with the lowest version of every library that setup.cfg allows, so that they are tested too."""

from __future__ import annotations

import configparser
import pathlib
import re

SETUP = pathlib.Path(__file__).parent.parent / "setup.cfg"
TOOLS = "test"  # what only tests need: any version will do


def lower_bounds(text: str) -> list[str]:
    """Return ``name==version; marker`` for each requirement of a setup.cfg that has a lower bound."""
    config = configparser.ConfigParser()
    config.read_string(text)
    required = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    found = []
    for extra, lines in required.items():
        for line in filter(None, map(str.strip, lines.splitlines())):
            requirement, _, marker = map(str.strip, line.partition(";"))
            if extra == TOOLS or (match := re.fullmatch(r"([\w.-]+)>=([\w.]+).*", requirement)) is None:
                continue
            found.append(f"{match[1]}=={match[2]}" + (f"; {marker}" if marker else ""))
    return found


if __name__ == "__main__":
    print("\n".join(lower_bounds(SETUP.read_text(encoding="utf-8"))))
