"""best.json of a run directory: the step whose checkpoint has the best evaluation."""

from typing import NamedTuple

from tlx.base.errors import CheckpointError
from tlx.base.files import read_json, write_json
from tlx.base.place import Place

FILE = "best.json"

# The word for that step wherever a step is named.
BEST = "best"


class BestStep(NamedTuple):
    """The best evaluated step of a run."""

    step: int
    """Its number."""
    metric: str
    """Name of the validation metric by which it is the best."""
    value: float
    """The metric at that step."""


def read_best(steps_folder: Place) -> BestStep | None:
    """Return the best step that best.json beside a folder of steps names; None where there is no such file.

    Raises CheckpointError where the file is not what `write_best` writes.
    """
    path = steps_folder.parent / FILE
    if not path.exists():
        return None
    try:
        values = read_json(path)
        return BestStep(int(values["step"]), str(values["metric"]), float(values["value"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def write_best(steps_folder: Place, best: BestStep) -> None:
    """Write best.json beside a folder of steps, atomically."""
    write_json(steps_folder.parent / FILE, best._asdict())


def remove_best(steps_folder: Place) -> None:
    """Remove best.json beside a folder of steps, where the step that it names is gone and no other is known."""
    (steps_folder.parent / FILE).unlink(missing_ok=True)


def resolve_step(steps_folder: Place, step: int | str | None) -> int | None:
    """Return the number of a step that may be named "best"; None stays None.

    Raises CheckpointError for another word, and where no step is known to be the best.
    """
    if step is None or isinstance(step, int):
        return step
    if step != BEST:
        raise CheckpointError(f"step = {step!r} is neither a number nor {BEST!r}")
    best = read_best(steps_folder)
    if best is None:
        raise CheckpointError(
            f"no step of {steps_folder.parent} is known to be the best: it has no {FILE}, which a training with "
            "checkpoint.keep_best = True writes"
        )
    return best.step
