"""Settings of the tests that read random inputs: the same examples each time, or more and new ones by hand.

TLX_FUZZ=2500 pytest FILE       so many examples a test, drawn anew
"""

import os
from collections.abc import Collection

from hypothesis import HealthCheck, settings


def fuzzed(
    examples: int,
    *,
    deadline: int | None = None,
    suppressed: Collection[HealthCheck] = tuple(HealthCheck),
) -> settings:
    """Return the settings of a test.

    Args:
        examples: Number of examples where TLX_FUZZ does not say another one.
        deadline: Milliseconds that an example may take; None: any.
        suppressed: Health checks of hypothesis that are not made.

    Returns:
        The settings.
    """
    number = int(os.environ.get("TLX_FUZZ", "0"))
    return settings(
        max_examples=number or examples,
        derandomize=not number,
        database=None,
        deadline=deadline,
        suppress_health_check=list(suppressed),
    )
