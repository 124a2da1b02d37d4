"""Makes Orbax write to s3://: three private functions of the one version that was tested are replaced.

Orbax 0.12.8 gives gs:// to TensorStore's driver and takes any other address for a path. The arrays of s3:// go
through TensorStore's s3 driver, its small files through epath over s3fs. To be dropped once Orbax does so by itself.
"""

import functools
import importlib.metadata
import os
from typing import Any

from tlx.base.errors import ConfigError
from tlx.base.object_store import key_value_spec

TESTED = "0.12.8"


def check_version() -> None:
    """Raise ConfigError where another Orbax than the tested one is installed."""
    version = importlib.metadata.version("orbax-checkpoint")
    if version != TESTED:
        raise ConfigError(
            f"checkpoints in s3:// need orbax-checkpoint {TESTED}, this is {version}: pip install 'tlx-lm[s3]'"
        )


@functools.cache
def install() -> None:
    """Replace the functions, once in a process; other addresses are handled as before."""
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    uses_gcs = tensorstore_utils._use_gcs_driver
    normalize = tensorstore_utils._normalize_path
    gcs_spec = gcs_utils.get_kvstore_for_gcs

    def uses_bucket(directory: str) -> bool:
        return _is_s3(directory) or uses_gcs(directory)

    def normalize_path(path: str) -> str:
        return _joined(path) if _is_s3(path) else normalize(path)

    def bucket_spec(path: str) -> dict[str, Any]:
        if not _is_s3(path):
            return gcs_spec(path)
        bucket, _, key = _joined(path).removeprefix("s3://").partition("/")
        return key_value_spec("s3", bucket, key)

    tensorstore_utils._use_gcs_driver = uses_bucket
    tensorstore_utils._normalize_path = normalize_path
    gcs_utils.get_kvstore_for_gcs = bucket_spec


def _is_s3(path: str) -> bool:
    return path.startswith("s3:/")


def _joined(path: str) -> str:
    """Return an address without empty parts: normpath leaves one slash after "s3:"."""
    return "s3://" + os.path.normpath(path).removeprefix("s3:").lstrip("/")
