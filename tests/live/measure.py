"""The figures in docs/live.md: seconds to load and to the first picture, of 20 steps and in fast mode; memory; size of the file.

taskset -c 0,1 python tests/live/measure.py
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from live.browser import PAGE, browser, run


def processes(root: int) -> list[int]:
    """A process and all that it started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


def cpu_seconds(root: int) -> float:
    times = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13] for process in processes(root)]
    return sum(int(ticks) for pair in times for ticks in pair) / os.sysconf("SC_CLK_TCK")


def megabytes(root: int) -> float:
    """Proportional set size: shared pages are divided among those who share them."""
    files = [Path(f"/proc/{process}/smaps_rollup") for process in processes(root)]
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) / 1024


def main():
    print(f"file: {PAGE.stat().st_size / 1e6:.1f} MB")
    print(f"cores: {len(os.sched_getaffinity(0))}, load average {os.getloadavg()[0]:.1f}")
    for name, hash in {"20 steps, guided, PNDM": "", "fast mode": "#sampler=lcm&steps=4&scale=1"}.items():
        with browser(hash=hash) as driver:
            root, clock = driver.service.process.pid, "return performance.now() / 1000"
            loaded, cpu = run(driver, clock), cpu_seconds(root)
            first, second = (run(driver, f"await minisd.app.draw(); {clock}") for _ in range(2))
            print(f"{name}: loaded in {loaded:.1f} s; a picture in {first - loaded:.1f} s, another in {second - first:.1f} s")
            print(f"processor time: {cpu:.1f} s to start and load, {(cpu_seconds(root) - cpu) / 2:.1f} s a picture")
            print(f"memory: {megabytes(root):.0f} MB")


if __name__ == "__main__":
    main()
