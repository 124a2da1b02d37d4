"""Starts a run on a cluster with `tlx launch`, then watches the run's directory until it is over.

    python -m tlx.scaling.wait_for_cluster WORKDIR tlx launch slurm --config=...

Exit: 0 where the run came to its end, else the exit code of its last error. A launcher that stays until the
end (local) leaves nothing to wait for; one that queues a job (SLURM, GKE) returns at once.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from tlx.base import place as places
from tlx.base.errors import RETRYABLE
from tlx.base.place import Place
from tlx.scaling.outcome import ended
from tlx.training.journal import read_lines

POLL_SECONDS = 2.0


def wait(workdir: Place, words: Sequence[str]) -> int:
    """Run the launcher's words, and wait for the run's end or for an error that no restart can mend.

    Returns 0 at the end of the run, else the launcher's exit code or that of the error.
    """
    since = time.time()
    code = subprocess.call(list(words))
    while code == 0 and not ended(workdir):
        errors = [line for line in read_lines(workdir / "events.jsonl") if line["event"] == "error"]
        # Errors of an earlier start are over; retryable ones are the launcher's to restart.
        final = [line for line in errors if line["time"] >= since and line["exit"] not in RETRYABLE]
        if final:
            return final[-1]["exit"]
        time.sleep(POLL_SECONDS)
    return code


if __name__ == "__main__":
    sys.exit(wait(places.parse(sys.argv[1]), sys.argv[2:]))
