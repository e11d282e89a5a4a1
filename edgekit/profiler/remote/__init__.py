"""Profiles on another device, over the system's `ssh` and `sftp` or `adb`: push, run detached, bring the report back.

`open_device("ssh://user@host:22")`, `"adb:SERIAL"` or `"local"` gives a `Device`; `edgekit.profiler.remote.measure` has
the verbs. Nothing here opens a connection of its own: the user's ssh does, with the user's keys, agent and known hosts.
"""
