"""Checks the reports that people sent: signature, schema, name, and that nothing in them tells who or where they are.

`python tools/check_reports.py [FOLDER]` prints `file: what, why` for each finding and exits with 1 if there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from edgekit.attest import SIGNATURE_SUFFIX, SUFFIX, read_attestation, signature_of
from edgekit.errors import EdgekitError

FOLDER = Path(__file__).parents[1] / "reports"


def findings(folder: Path) -> Iterator[str]:
    """What is wrong with the files in `folder`, a line each."""
    if not folder.is_dir():
        yield f"{folder}: there is no such folder"
        return
    for path in sorted(folder.iterdir()):
        if path.name == "README.md":
            continue
        if path.name.endswith(SUFFIX):
            try:
                read_attestation(path)
            except EdgekitError as error:
                yield f"{path.name}: {error.what}: {error.why or error.where}"
        elif path.name.endswith(SIGNATURE_SUFFIX):
            document = path.with_name(path.name.removesuffix(SIGNATURE_SUFFIX) + SUFFIX)
            if signature_of(document) != path or not document.is_file():
                yield f"{path.name}: it signs no report here"
        else:
            yield f"{path.name}: it does not belong here: only reports and their signatures do"


def main(folder: Path = FOLDER) -> int:
    """Print the findings; 1 where there is one."""
    found = list(findings(folder))
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
