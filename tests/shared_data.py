"""The folder of public texts and tables: $TLX_SHARED_DATA, or shared/data beside the checkout.

It is no part of the repository; tests that read it skip, saying so, where it is absent.
"""

import os
import pathlib

SHARED_DATA = pathlib.Path(
    os.environ.get("TLX_SHARED_DATA") or pathlib.Path(__file__).parents[2] / "shared/data"
)
