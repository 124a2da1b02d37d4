"""A run that a cluster makes: started by `tlx launch`, then watched through its directory until it is over.

    python -m tlx.scaling.wait_for_cluster WORKDIR tlx launch slurm --config=...

Exit: 0 where the run came to its end, else the code that it was given up with. A launcher that stays
until the end (local) has nothing left to wait for; one that queues a job (SLURM, GKE) returns at once.
"""

import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from tlx.base.errors import RETRYABLE
from tlx.scaling.outcome import ended
from tlx.training.journal import read_lines

POLL_SECONDS = 2.0


def wait(workdir: pathlib.Path, words: Sequence[str]) -> int:
    """Starts the words, and waits for the run's end or for an error that no restart mends."""
    since = time.time()
    code = subprocess.call(list(words))
    while code == 0 and not ended(workdir):
        errors = [line for line in read_lines(workdir / "events.jsonl") if line["event"] == "error"]
        final = [line for line in errors if line["time"] >= since and line["exit"] not in RETRYABLE]
        if final:
            return final[-1]["exit"]
        time.sleep(POLL_SECONDS)
    return code


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    sys.exit(wait(pathlib.Path(folder), rest))
