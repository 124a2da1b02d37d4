"""What is shown in a terminal and in a log."""

import io
import sys
import types

from tlx.training.progress import Progress, Speed, duration, in_notebook, line

SPEED = Speed(61_234.0, 12.3e9, 36e9, 130.4)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line():
    expected = "step 1,200/5,000  loss 3.4123  61.2 ktokens/s  12.3 GFLOP/s (34% of peak)  2m10s left"
    assert line(1200, 5000, 3.41234, SPEED) == expected


def test_durations():
    shown = [duration(seconds) for seconds in (9, 130, 3 * 3600 + 300, 2 * 86400 + 3 * 3600)]
    assert shown == ["9s", "2m10s", "3h05m", "2d03h"]


def test_plain_lines_in_a_log():
    stream = io.StringIO()
    progress = Progress(10, stream)
    progress.advance(5)
    progress.show(5, 1.0, SPEED)
    progress.say("hello")
    assert stream.getvalue().count("\n") == 2 and "\r" not in stream.getvalue()


def test_a_notebook_has_a_bar_though_its_stream_is_no_terminal(monkeypatch):
    monkeypatch.setattr("tlx.training.progress.in_notebook", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no ipywidgets: a bar of text
    stream = io.StringIO()
    progress = Progress(10, stream)
    progress.advance(5)
    progress.show(5, 1.0, SPEED)
    progress.close()
    assert "50%" in stream.getvalue()


def test_a_kernel_is_recognised(monkeypatch):
    assert not in_notebook()
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert in_notebook()


def test_a_bar_in_a_terminal():
    stream = Terminal()
    progress = Progress(10, stream)
    progress.advance(5)
    progress.show(5, 1.0, SPEED)
    progress.close()
    assert "50%" in stream.getvalue() and "\r" in stream.getvalue()
