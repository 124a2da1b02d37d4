"""Progress of a run as the user sees it: a bar in a terminal or a notebook, plain lines in a log."""

import importlib.util
import shutil
import sys
from typing import IO, Any, NamedTuple

from tqdm import tqdm

_BAR_FORMAT = "{percentage:3.0f}%|{bar:10}| {desc}"
_NOTEBOOK_BAR_FORMAT = "{percentage:3.0f}%|{bar}| {desc}"


class Speed(NamedTuple):
    """Throughput of training over all devices."""

    tokens_per_s: float
    """Tokens through the model a second."""
    flops_per_s: float
    """Model FLOP/s."""
    peak: float
    """Peak FLOP/s of all devices together."""
    seconds_left: float
    """Estimated seconds to the last step."""


class Progress:
    """Shows steps as they are done; `show` replaces the bar's text, or prints a line where there is no bar.

    Args:
        last: number of the last step.
        stream: where bar and lines go; stdout by default.
        silent: show nothing (on all processes but the first).
    """

    def __init__(self, last: int, stream: IO | None = None, silent: bool = False):
        self._stream = stream or sys.stdout
        self._last = last
        self._silent = silent
        self._bar: Any = None

    def advance(self, step: int) -> None:
        """Move the bar to `step`; it appears the first time."""
        if self._bar is None and not self._silent:
            self._bar = self._make_bar(step - 1)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, step: int, loss: float, speed: Speed) -> None:
        """Show one line: step, loss, tokens/s, model FLOP/s and their share of the peak, time left.

        Args:
            step: steps done.
            loss: mean loss since the last line, in nats.
            speed: throughput since the last line.
        """
        text = line(step, self._last, loss, speed)
        if self._bar is not None:
            self._bar.set_description_str(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands. May be called again."""
        if self._bar is not None:
            self._bar.close()

    def _make_bar(self, done: int) -> Any:
        """A bar of a notebook or of a terminal; None where lines are better (a log, a pipe)."""
        if in_notebook():
            return _notebook_bar(done, self._last, self._stream)
        if not self._stream.isatty():
            return None
        size = shutil.get_terminal_size()  # tqdm would show nothing where the size is unknown
        return tqdm(
            initial=done,
            total=self._last,
            file=self._stream,
            ncols=size.columns,
            nrows=size.lines,
            bar_format=_BAR_FORMAT,
        )


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _notebook_bar(done: int, last: int, stream: IO) -> Any:
    """The notebook's own bar where ipywidgets is installed, else one of text below the cell."""
    if importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget

        return widget(initial=done, total=last, bar_format=_NOTEBOOK_BAR_FORMAT)
    return tqdm(initial=done, total=last, file=stream, ncols=100, bar_format=_BAR_FORMAT)


def line(step: int, last: int, loss: float, speed: Speed) -> str:
    """Return "step 1,200/5,000  loss 3.412  61.2k tokens/s  12.3 GFLOP/s (34% of peak)  2m10s left".

    Args:
        step: steps done.
        last: number of the last step.
        loss: in nats.
        speed: throughput and time left.
    """
    return (
        f"step {step:,}/{last:,}  loss {loss:.4f}  {_scaled(speed.tokens_per_s)}tokens/s  "
        f"{_scaled(speed.flops_per_s)}FLOP/s ({speed.flops_per_s / speed.peak:.0%} of peak)  "
        f"{duration(speed.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """Return "2d03h", "3h05m", "2m10s" or "9s"."""
    seconds = int(seconds)
    days = seconds // 86400
    hours = seconds // 3600 % 24
    minutes = seconds // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def _scaled(value: float) -> str:
    """Three digits and a prefix of thousands, "61.2 k"."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} E"
