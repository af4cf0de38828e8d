"""A training run without training: steps of some milliseconds, a checkpoint after each, results at the end.

    python fake_train.py FOLDER STEPS [crash | crash-once | exit2 | no-results]

As the real one it locks its folder, and hears SIGTERM: the step is finished, its number saved, and the process leaves with 143. Every step
that was done is a line of ``steps.txt``, so that a step done twice, or never, is seen. If FAKE_RESULTS names a folder, its files are the
results.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

folder, steps, behaviour = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""
folder.mkdir(parents=True, exist_ok=True)
lock = (folder / ".lock").open("a")
stopped = []


def write(name, content):
    temporary = folder / (name + ".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(folder / name)


def main():
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stdout.write("error: already in use\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
    first = json.loads((folder / "last.pt").read_text())["step"] if (folder / "last.pt").exists() else 0
    if behaviour == "exit2":
        sys.stdout.write("error: head.num_conv: unknown key -> did you mean head.num_convs?\n")
        return 2
    if behaviour == "crash" or (behaviour == "crash-once" and not (folder / "crashed").exists()):
        (folder / "crashed").touch()
        sys.stdout.write("Traceback (most recent call last):\n  ...\nZeroDivisionError: \x1b[31mred\x1b[0m division by zero\n")
        return 1
    for step in range(first + 1, steps + 1):
        time.sleep(0.01)
        with (folder / "steps.txt").open("a") as file:
            file.write(f"{step}\n")
        write("last.pt", {"step": step})
        if stopped:
            return 143
    if behaviour == "no-results":
        return 0
    if results := os.environ.get("FAKE_RESULTS"):
        for file in sorted(Path(results).iterdir(), key=lambda path: path.name == "results.json"):  # the mark of the end comes last
            shutil.copy(file, folder / (file.name + ".tmp"))
            (folder / (file.name + ".tmp")).replace(folder / file.name)
        return 0
    write("predictions.json", [])
    write("results.json", {"finished": True, "summary": {"AP": 0.5}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
