"""The private folder of one run on a device, `.../edgekit/remote/RUNID`, and what is in it.

It lies in `/data/local/tmp` on Android, else in `~/.cache`. Only the user may enter it, and nothing else is removed.
"""

from __future__ import annotations

import posixpath
import re
import secrets
from dataclasses import dataclass

from edgekit.errors import MissingError
from edgekit.profiler.remote.device import Device, script

RUN_ID = re.compile(r"[0-9a-f]{16}")
QUICK_S = 60.0  # a command that does next to nothing; a board may be starting or swapping
REMOVE_S = 600.0

# $1 is the root, or empty. Prints the folder that holds all runs.
ROOT = """
root=$1
if [ -z "$root" ]; then
  if [ -d /data/local/tmp ] && [ -w /data/local/tmp ]; then root=/data/local/tmp; else root=$HOME/.cache; fi
fi
root=$root/edgekit/remote
"""
_MAKE = (
    "set -e; umask 077\n"
    + ROOT
    + """
mkdir -p "$root"
[ -O "$root" ] || { echo "$root belongs to another user" >&2; exit 1; }
chmod 700 "$root"
find "$root" -mindepth 1 -maxdepth 1 -mtime +1 -type d | while read -r old; do
  [ -f "$old/pid" ] || rm -rf -- "$old"  # a connection broke before anything ran there
done
mkdir "$root/$2" "$root/$2/out"
cd "$root/$2"
pwd -P
"""
)
_REMOVE = 'case $1 in */edgekit/remote/????????????????) rm -rf -- "$1" ;; *) exit 1 ;; esac'


@dataclass(frozen=True)
class Places:
    """Absolute paths on the device.

    Attributes:
        folder: the run's own folder.
        bundle: where the bundle is; a folder, or a zip whose name ends in `.edgekit`.
        report: what `-o` names; whatever is written beside it comes back.
        python: the interpreter that has edgekit.
        site: what `PYTHONPATH` begins with; empty where the interpreter finds edgekit by itself.
    """

    folder: str
    bundle: str
    report: str
    python: str
    site: str = ""

    @property
    def out(self) -> str:
        """The folder whose contents come back."""
        return self.folder + "/out"


def new_run_id() -> str:
    """A name that no other run has: 64 random bits."""
    return secrets.token_hex(8)


def make_folder(device: Device, run_id: str) -> str:
    """Make the folder of a run, for this user alone, and return its absolute path.

    Raises:
        MissingError: the device does not let us.
    """
    made = device.run(script(_MAKE, device.root, run_id), timeout=QUICK_S)
    folder = made.text.rstrip("\n")
    if made.code or not posixpath.isabs(folder):
        raise MissingError(
            f"{device.address}: there is no place for our files",
            where=device.root or "~/.cache/edgekit/remote",
            why=made.last_words,
            fix="make the home folder writable, or free some space",
        )
    return folder


def remove_folder(device: Device, folder: str) -> None:
    """Remove a run's folder and all that is in it; a path of another form is refused by the device's side too.

    Raises:
        MissingError: it could not be removed.
    """
    name = posixpath.basename(folder)
    done = device.run(script(_REMOVE, folder), timeout=REMOVE_S) if RUN_ID.fullmatch(name) else None
    if done is None or done.code:
        why = done.last_words if done else "it is not the folder of a run"
        raise MissingError(f"{device.address}: the run's folder stays", where=folder, why=why, fix="remove it by hand")
