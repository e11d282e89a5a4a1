"""`edgekit export --model femtodet --target snapdragon-865` from a cold start: seconds and peak memory by step."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time


def main() -> bool:
    """Measure and print; there is no bar."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "edgekit.cli.main", "export", "--model", "femtodet"]
        command += ["--target", "snapdragon-865", "-o", f"{folder}/bundle", "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        total = time.perf_counter() - start
    print(f"edgekit export, cold start: {total:.1f} s in all")
    for cost in json.loads(done.stdout)[0]["costs"]:
        print(f"  {cost['step']:<28} {cost['seconds']:6.2f} s, peak {cost['peak_rss_mib']:.0f} MiB")
    return True


if __name__ == "__main__":
    raise SystemExit(not main())
