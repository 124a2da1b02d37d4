"""Eight simulated CPU devices and caches of their own for every test and every process a test starts."""

import importlib.metadata
import os
import pathlib
import tempfile

_CACHE = tempfile.TemporaryDirectory(prefix="tlx-tests-")

# Before anything imports jax; through the environment, so that the processes which tests start get them too.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tests compile far more than they compute: leaving most of the optimisation out takes .6 of the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The emitters of fused loops take two thirds of the compiler's time. A later jaxlib has no such flag and
    # ends with what it does not know.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TLX_CACHE"] = _CACHE.name
