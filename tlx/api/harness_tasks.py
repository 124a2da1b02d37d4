"""The package lm-eval and the names of its tasks; importing this module does not need it."""

import difflib
from collections.abc import Sequence
from typing import Any

from tlx.base.errors import ConfigError

# Names that a message suggests.
_NUM_NEAREST = 3


def import_lm_eval(field: str) -> Any:
    """Return the package lm-eval; ConfigError where it cannot be imported.

    Args:
        field: The flag or key that asks for it.
    """
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError as error:
        raise ConfigError(
            f"{field} needs the package lm-eval ({error}); install it with: pip install 'tlx-lm[harness]'"
        ) from error
    return lm_eval


def check_task_names(field: str, names: Sequence[str], manager: Any = None) -> None:
    """Check names, or patterns of names, of tasks of the harness.

    Args:
        field: The flag or key that names them.
        names: The names.
        manager: A lm_eval.tasks.TaskManager; None: of the harness's own tasks, which takes seconds to list.

    Raises:
        ConfigError: There is no such task, or lm-eval is not installed.
    """
    lm_eval = import_lm_eval(field)
    manager = manager or lm_eval.tasks.TaskManager()
    unknown = next((name for name in names if not manager.match_tasks([name])), None)
    if unknown is None:
        return
    nearest = difflib.get_close_matches(unknown, manager.all_tasks, n=_NUM_NEAREST)
    hint = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
    raise ConfigError(f"{field}: lm-eval {lm_eval.__version__} has no task {unknown!r}{hint}")
