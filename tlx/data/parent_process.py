"""The end of processes whose parent was killed: a parent that is killed tells nobody."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process once its parent has ended, from a thread that waits for it; nothing in a main process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
