"""A command that runs on a device by itself: started detached, watched from wherever the connection is, and fetched.

In the run's folder: `pid` and `boot` while it runs, `log` (its standard error) and `stdout`, and `code` at its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.errors import InconclusiveError
from edgekit.profiler.remote.device import Device, script
from edgekit.profiler.remote.folders import QUICK_S

# Written by the device's own shell; `mv` gives a file its name only when it is whole.
_JOB = """
echo $$ >pid.new && mv pid.new pid
"$@" </dev/null >stdout 2>log
echo $? >code.new && mv code.new code
"""
# $1 folder, $2 the script above, the rest is the command. No hangup reaches it, and it has a process group of its own.
_START = """
cd "$1" || exit 1
umask 077
cat /proc/sys/kernel/random/boot_id >boot 2>/dev/null
: >log; job=$2; shift 2
if command -v setsid >/dev/null; then
  setsid nohup sh -c "$job" sh "$@" </dev/null >/dev/null 2>&1 &
else
  nohup sh -c "$job" sh "$@" </dev/null >/dev/null 2>&1 &
fi
tries=0
while [ ! -s pid ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
cat pid
"""
# $1 folder, $2 bytes of the log that are known already. GNU's tail starts no process and sleeps until there is more,
# but for one system call in 0.2 s, so that watching does not disturb what is measured; others are asked every 2 s.
_FOLLOW = """
cd "$1" || exit 0
if [ ! -f code ] && tail --version 2>/dev/null | grep -q GNU; then
  exec tail -c "+$(($2 + 1))" -s 0.2 --pid="$(cat pid)" -f log
fi
at=$2
while :; do
  over=; [ -f code ] && over=1
  kill -0 "$(cat pid)" 2>/dev/null || over=1
  size=$(wc -c <log)
  if [ "$size" -gt "$at" ]; then tail -c "+$((at + 1))" log | head -c "$((size - at))"; at=$((size)); fi
  [ -n "$over" ] && exit 0
  sleep 2
done
"""
_STATUS = """
cd "$1" 2>/dev/null || { echo gone; exit 0; }
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
if [ -f code ]; then echo "ended $(cat code)"
elif [ "$boot" = "$(cat boot)" ] && kill -0 "$(cat pid)" 2>/dev/null; then echo running
elif [ -f code ]; then echo "ended $(cat code)"
elif [ "$boot" != "$(cat boot)" ]; then echo restarted
else echo died; fi
"""
_STOP = """
cd "$1" 2>/dev/null || exit 0
[ -f code ] && exit 0
pid=$(cat pid) || exit 0
kill -TERM "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null
tries=0
while kill -0 "$pid" 2>/dev/null && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
exit 0
"""
_STATES = re.compile(r"(?P<state>ended|running|restarted|died|gone)(?: (?P<code>\d+))?")


@dataclass(frozen=True)
class Status:
    """What became of a job; `code` is the command's exit code once it has ended."""

    state: Literal["ended", "running", "restarted", "died", "gone"]
    code: int | None = None


def start(device: Device, folder: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Start a command detached in `folder`.

    Args:
        variables: added to its environment.

    Raises:
        InconclusiveError: it did not start.
    """
    assignments = [f"{name}={value}" for name, value in variables.items()]
    started = device.run(script(_START, folder, _JOB, "env", *assignments, *command), timeout=QUICK_S)
    if started.code or not started.text.strip().isdigit():
        raise InconclusiveError(
            f"{device.address}: the run did not start", where=folder, why=started.last_words, fix="try again"
        )


def follow(device: Device, folder: str, known: int, told: Callable[[bytes], None]) -> None:
    """Hand on the job's log from byte `known` on, until the job has ended.

    Raises:
        UnreachableError: the connection broke; the job goes on.
    """
    device.run(script(_FOLLOW, folder, str(known)), told=told)


def status(device: Device, folder: str) -> Status:
    """What became of a job.

    Raises:
        InconclusiveError: the device's answer cannot be understood.
    """
    answer = device.run(script(_STATUS, folder), timeout=QUICK_S)
    found = _STATES.fullmatch(answer.text.strip())
    if not found or (found["state"] == "ended") != bool(found["code"]):
        raise InconclusiveError(
            f"{device.address}: nobody knows what became of the run", where=folder, why=answer.last_words
        )
    state: Literal["ended", "running", "restarted", "died", "gone"] = found["state"]  # type: ignore[assignment]
    return Status(state, int(found["code"]) if found["code"] else None)


def stop(device: Device, folder: str) -> None:
    """End a job and all that it started, at once; one that has ended already is left alone."""
    device.run(script(_STOP, folder), timeout=QUICK_S)
