"""What somebody who waits sees: a bar in a terminal, plain lines in a log."""

import shutil
import sys
from typing import IO, NamedTuple

from tqdm import tqdm


class Speed(NamedTuple):
    """Throughput of training over all devices; `peak` is what their matrix units could do."""

    tokens_per_s: float
    flops_per_s: float
    peak: float
    seconds_left: float


class Progress:
    """Shows steps as they are done. `show` replaces the bar's text or prints a line.

    label: what lines begin with, where several runs share the terminal; there is no bar then.
    """

    def __init__(self, last: int, stream: IO | None = None, silent: bool = False, label: str = ""):
        self._stream = stream or sys.stdout
        self._last, self._label = last, label
        self._silent = silent
        self._bar = None

    def advance(self, step: int) -> None:
        """Moves the bar to `step`; the first time it appears."""
        if self._bar is None and not self._silent and not self._label and self._stream.isatty():
            size = shutil.get_terminal_size()  # tqdm would show nothing where the size is unknown
            self._bar = tqdm(
                initial=step - 1,
                total=self._last,
                file=self._stream,
                ncols=size.columns,
                nrows=size.lines,
                bar_format="{percentage:3.0f}%|{bar:10}| {desc}",
            )
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, step: int, loss: float, speed: Speed) -> None:
        """One line: step, loss, tokens/s, model FLOP/s and their share of the peak, time left."""
        text = line(step, self._last, loss, speed)
        if self._bar is not None:
            self._bar.set_description_str(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(self._label + text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def line(step: int, last: int, loss: float, speed: Speed) -> str:
    """ "step 1,200/5,000  loss 3.412  61.2k tokens/s  12.3 GFLOP/s (34% of peak)  2m10s left"."""
    return (
        f"step {step:,}/{last:,}  loss {loss:.4f}  {_scaled(speed.tokens_per_s)}tokens/s  "
        f"{_scaled(speed.flops_per_s)}FLOP/s ({speed.flops_per_s / speed.peak:.0%} of peak)  "
        f"{duration(speed.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """ "2d03h", "3h05m", "2m10s" or "9s"."""
    seconds = int(seconds)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def _scaled(value: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} E"
