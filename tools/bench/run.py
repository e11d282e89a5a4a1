"""All benchmarks, one after the other: ratios inside one run, process CPU time. Exits with 1 where a bar is missed."""

from __future__ import annotations

import end_to_end
import export_cost
import fusion
import session
import startup

if __name__ == "__main__":
    met = [benchmark.main() for benchmark in (fusion, session, startup, end_to_end, export_cost)]
    raise SystemExit(not all(met))
