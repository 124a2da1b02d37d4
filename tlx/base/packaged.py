"""Folders that come with tlx but are not code: configs and launch templates, in an installation or a checkout."""

import pathlib

# In an installation beside tlx/, as pyproject.toml's force-include writes it; absent in a checkout.
FOLDER = "tlx_packaged"


def packaged_folder(name: str) -> pathlib.Path:
    """Return the folder "configs" or "launch" of the installed package, or else of the checkout.

    Only the folder beside the tlx/ that was imported counts: an editable install leaves copies in site-packages,
    while its tlx/ is the checkout's.
    """
    beside = pathlib.Path(__file__).parents[2]
    installed = beside / FOLDER / name
    return installed if installed.is_dir() else beside / name
