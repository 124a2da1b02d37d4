"""The largest log-probabilities of a run's teacher, computed once before training and kept in the user's cache."""

import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tlx import parallel
from tlx.base.config import to_dict
from tlx.base.errors import DataError
from tlx.base.files import cache_folder, sha256_json
from tlx.data.build_once import build_once
from tlx.data.records_with_arrays import RecordsWithArrays
from tlx.run.assemble import Run
from tlx.tasks.shared.student import TEACHER_IDS, TEACHER_LOG_PROBS
from tlx.training.teacher import read_frozen

_NAMES = (TEACHER_IDS, TEACHER_LOG_PROBS)


def with_teacher_log_probs(run: Run) -> Run:
    """Return a run whose training rows have the log-probabilities of its teacher, where the config stores them.

    They are kept by the hashes of the teacher and of the records, so that a run that is resumed, or differs in its
    optimizer or student alone, computes none.

    Args:
        run: The run.

    Returns:
        The run.

    Raises:
        DataError: A record has several targets, of which one is drawn for each row.
    """
    distill = run.config.distill
    if not (distill.teacher and distill.top_k):
        return run
    split: Any = run.train
    if any(len(getattr(item, "targets", ())) > 1 for item in split.items):
        raise DataError(
            f"distill.top_k = {distill.top_k} stores the log-probabilities of one target for each record; some have "
            "several: name a column with one text in objective.target, or take distill.top_k = 0"
        )
    key = _key(run, split)
    # Several hosts compute together: one of them may not go on alone with what it has stored.
    if jax.process_count() > 1:
        return run._replace(train=RecordsWithArrays(split, _compute(run, split), key))
    folder = cache_folder() / "teachers" / key[:32]
    files = build_once(folder, lambda folder: _save(folder, run, split), _files)
    return run._replace(train=RecordsWithArrays(split, files, key))


def _key(run: Run, split: Any) -> str:
    config = run.config
    distill = config.distill
    settings = [distill.teacher_hash, distill.top_k, distill.temperature]
    model = to_dict(run.module.teacher_module().model)
    return sha256_json([settings, split.fingerprint, len(split.items), model, config.data.sequence_length])


def _save(folder: pathlib.Path, run: Run, split: Any) -> None:
    for name, values in _compute(run, split).items():
        np.save(folder / f"{name}.npy", values)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    files = {name: folder / f"{name}.npy" for name in _NAMES}
    for path in files.values():
        try:
            np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    return files


def _compute(run: Run, split: Any) -> dict[str, np.ndarray]:
    """Compute ids and log-probabilities at each position of each item, [items, T, k]."""
    distill = run.config.distill
    boxed = {"teacher": run.module.teacher_params()}
    shardings = parallel.param_shardings(boxed, run.mesh, run.rules)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        parallel.unbox(boxed),
        shardings,
    )
    module = run.module.teacher_module()

    def top_log_probs(params: Any, batch: Any) -> Any:
        variables = {"params": params}
        return module.apply(variables, batch, distill.top_k, distill.temperature, method="top_log_probs")

    compute = jax.jit(top_log_probs, out_shardings=NamedSharding(run.mesh, PartitionSpec()))
    with run.use():
        params = read_frozen(distill, abstract)["teacher"]
        pieces = []
        for batch in split.epoch_batches(run.local_row_indices):
            # Copied to the host at once: those of a large split do not fit a device.
            pieces.append(jax.device_get(compute(params, run.to_devices(batch))))
    arrays = [np.concatenate(parts)[: len(split.items)] for parts in zip(*pieces, strict=True)]
    return dict(zip(_NAMES, arrays, strict=True))
