"""A notebook whose kernel is interrupted while a run trains: the run saves, the kernel lives on."""

import time

import pytest

from tests.cli import tiny
from tlx.training.journal import read_lines

client = pytest.importorskip("jupyter_client")

_CELL = """
import tlx
overrides = {{"train.steps": {steps}, "eval.every": 0, "checkpoint.every": 0}}
result = tlx.train({config!r}, workdir={workdir!r}, overrides=overrides)
print(result)
"""


def reply_to(kernel, message):
    """The reply to one message; the kernel's start may have left others in the channel."""
    while True:
        reply = kernel.get_shell_msg(timeout=120)
        if reply["parent_header"].get("msg_id") == message:
            return reply["content"]


@pytest.mark.slow
def test_an_interrupted_kernel_saves_and_the_next_cell_resumes(tmp_path):
    pytest.importorskip("ipykernel")
    config = f"{tiny.write_config(tmp_path)}:clm"
    workdir = str(tmp_path / "run")
    manager, kernel = client.manager.start_new_kernel(cwd=str(tiny.ROOT))
    try:
        message = kernel.execute(_CELL.format(config=config, workdir=workdir, steps=600))
        deadline = time.monotonic() + 240
        while not read_lines(tmp_path / "run/metrics.jsonl") and time.monotonic() < deadline:
            time.sleep(0.1)
        manager.interrupt_kernel()
        reply = reply_to(kernel, message)
        assert (reply["status"], reply.get("ename")) == ("error", "Preempted"), reply
        (saved,) = (tmp_path / "run/checkpoints").glob("[0-9]*")
        step = int(saved.name)
        assert step < 600
        texts = []
        more = _CELL.format(config=config, workdir=workdir, steps=600)
        more += "\nassert result.model.step == 600"
        reply = kernel.execute_interactive(more, timeout=300, output_hook=texts.append)["content"]
        assert reply["status"] == "ok", reply
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    shown = "".join(message["content"].get("text", "") for message in texts)
    assert f"resuming   from checkpoints/{step}: " in shown and "100%" in shown
