"""Log-probabilities of a run's reference, computed once before training and kept in the user's cache."""

import dataclasses
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
from tlx.evaluation.answers import Predictor, make_predictor
from tlx.run.assemble import Run
from tlx.tasks.preference import Preference, PreferenceModule, with_reference
from tlx.training.teacher import read_frozen

_FILE = "log_probs.npy"


def add_reference(run: Run, *splits: Any) -> None:
    """Give the items of splits the log-probabilities of the reference, where the config has them cached.

    They are kept by the hashes of the reference and of the records, so that a run that is resumed, or differs in
    its loss or optimizer alone, computes none.

    Args:
        run: The run.
        splits: RecordPipelines of its data; their `items` are replaced.
    """
    config = run.config.objective
    if not (isinstance(config, Preference) and config.cache_reference):
        return
    for split in splits:
        # Several hosts compute together: one of them may not go on alone with what it has stored.
        if jax.process_count() > 1:
            values = _compute(run, split)
        else:
            folder = cache_folder() / "references" / _key(run, split)[:32]
            values = build_once(folder, lambda folder, split=split: _save(folder, run, split), _load)
        split.items = with_reference(split.items, values)


def _key(run: Run, split: Any) -> str:
    config = run.config
    model = dataclasses.replace(config.objective.reference_model, dtype=config.model.dtype)
    rows = [len(item.pairs) for item in split.items]
    hashes = [config.objective.reference_hash, split.fingerprint]
    return sha256_json([hashes, rows, to_dict(model), config.data.sequence_length])


def _save(folder: pathlib.Path, run: Run, split: Any) -> None:
    np.save(folder / _FILE, _compute(run, split))


def _load(folder: pathlib.Path) -> np.ndarray:
    try:
        return np.load(folder / _FILE)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / _FILE} cannot be read: {error}") from error


def _compute(run: Run, split: Any) -> np.ndarray:
    """Compute the log-probabilities of the answers of each row, float32 [items, J, 2]."""
    module: PreferenceModule = run.module
    boxed = {"reference": module.reference_params()}
    shardings = parallel.param_shardings(boxed, run.mesh, run.rules)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        parallel.unbox(boxed),
        shardings,
    )
    with run.use():
        params = read_frozen(run.config.objective, abstract)["reference"]
        predictor: Predictor = make_predictor(
            module.reference_module(), NamedSharding(run.mesh, PartitionSpec())
        )
        results = [
            predictor.run(params, run.to_devices(batch))[1]["log_probs"]
            for batch in split.epoch_batches(run.local_row_indices)
        ]
    return np.concatenate(jax.device_get(results))[: len(split.items)]
