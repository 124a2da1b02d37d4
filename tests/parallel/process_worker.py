"""One process of test_process.py: joins, and says what it holds or why it could not."""

import sys

import jax
import numpy as np

from tlx import parallel
from tlx.base.errors import UserError


def main(timeout: float, axes: list[str]) -> int:
    try:
        settings = parallel.start_process(timeout=timeout)
    except UserError as error:
        print("error:", error, flush=True)
        return error.code
    config = parallel.MeshConfig(**{name: int(size) for name, size in (axis.split("=") for axis in axes)})
    mesh = parallel.make_mesh(config)
    batch = {"tokens": np.arange(48, dtype=np.int32).reshape(8, 6)}
    shardings = parallel.batch_sharding(mesh, parallel.rules(config), batch)
    rows = parallel.local_rows(shardings["tokens"], 8)
    tokens = parallel.to_global({"tokens": batch["tokens"][rows]}, shardings)["tokens"]
    total = jax.jit(lambda x: (x * np.arange(1, 49).reshape(8, 6)).sum())(tokens)
    print(settings.process_id, jax.process_count(), rows.tolist(), int(total), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
