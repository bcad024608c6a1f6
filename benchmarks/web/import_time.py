"""How long the web container's module takes to import, each time in a new interpreter.

    python -m benchmarks.web.import_time [RUNS]

It prints wall and CPU seconds; on a busy machine use the CPU seconds. The aim is under 1.5 s: the import runs when a
memory snapshot of the web function is made, and at every start without one.
"""

import statistics
import subprocess
import sys

CODE = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import anime_studio.modal_app as app
app.create_app, app.ModalJobs  # absent when an import of the web image failed
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def main(runs: int) -> None:
    """Print the median and the best of *runs* imports."""
    seconds = []
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        seconds.append([float(text) for text in done.stdout.split()])
    for name, column in zip(("wall", "cpu"), zip(*seconds, strict=True), strict=True):
        print(f"{name}: median {statistics.median(column):.2f} s, best {min(column):.2f} s of {runs}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
