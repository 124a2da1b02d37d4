"""A task's config, completed by what the base model and the training records say."""

from typing import Any

from tlx.adapt.config import AdaptConfig
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.data.records import read_records
from tlx.run import RunConfig
from tlx.run.assemble import build_tokenizer, open_split
from tlx.run.checks import resolve
from tlx.run.config import get_objective, parse_config, without_nones
from tlx.trainer.base_model import BaseModel, cache_tokenizer
from tlx.training.config import BaseConfig


def completed(values: dict[str, Any], base: BaseModel | None, scratch: bool = False) -> RunConfig:
    """The config with all that the base model and the training records say: model, tokenizer, the names of
    the classes, the number of steps. Raises ConfigError or DataError."""
    adapt = from_dict(AdaptConfig, values["adapt"], "config.adapt")
    if adapt.method != "full" and (base is None or scratch):
        raise ConfigError(f"adapt.method = {adapt.method!r} keeps a base as it is; give it by --from=DIR")
    values["model"]["adapters"] = to_dict(adapt.adapters)
    if base is not None:
        tokenizer = cache_tokenizer(base.tokenizer)
        values |= {
            "model": _joined(to_dict(base.config.model), without_nones(values["model"])),
            "tokenizer": to_dict(base.config.tokenizer) | {"path": tokenizer},
            "base": to_dict(BaseConfig() if scratch else base.record),
        }
    config = parse_config(values)
    config.data.records.validate()
    records = read_records(config.data.records, "train", config.seed)
    values["objective"] = to_dict(get_objective(config).complete(config.objective, records))
    if config.data.records.epochs:
        rows = _num_rows(parse_config(values), len(records))
        steps = config.data.records.epochs * rows / config.train.batch_size
        values["train"] = to_dict(config.train) | {"steps": max(1, round(steps))}
    return resolve(values)


def _num_rows(config: RunConfig, num_records: int) -> int:
    """Rows of one pass over the training records: of packed ones there are fewer, of cut ones more."""
    parts = get_objective(config)
    if not parts.cuts and (parts.join is None or not config.objective.packing):
        return num_records
    return open_split(config, build_tokenizer(config), "train").num_windows


def _joined(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    joined = dict(values)
    for key, value in changes.items():
        joined[key] = _joined(joined[key], value) if isinstance(value, dict) and key in joined else value
    return joined
