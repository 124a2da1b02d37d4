"""Result of a training: the trained model, which shares the trained arrays, and the final metrics."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax

from tlx.base.place import Place, fetched_folder
from tlx.run.assemble import Run
from tlx.run.spec import make_module
from tlx.training.state import State
from tlx.training.step import merge_params

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of tlx.train and tlx.finetune; `model, metrics = tlx.train(...)` unpacks it.

    print() shows a short summary.
    """

    model: "LoadedModel"
    """The trained model; of several seeds that of the last one. Its arrays are those that were trained."""
    metrics: dict[str, Any]
    """Final metrics. Of a pretraining: {name: value} on the validation split. Of a fine-tuning: {split:
    {name: value}}, as scores.json has them; of several seeds as seeds.json has them. Without eval.final:
    those of the last step."""
    workdir: Place
    """The run directory, absolute; of several seeds the folder of their run directories."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the model, then the metrics."""
        yield self.model
        yield self.metrics

    def __str__(self) -> str:
        """Return a few lines: what was trained, where it is, its figures."""
        config = self.model.config
        what = f"{config.objective.name}, {config.model.kind}, {self.model.num_params:,} parameters"
        lines = [f"{self.workdir} at step {self.model.step:,}: {what}", *_figures("", self.metrics)]
        return "\n".join(lines)


def _figures(prefix: str, metrics: Mapping[str, Any]) -> Iterator[str]:
    """A line for each number."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(f"{prefix}{name}/", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
            yield f"  {prefix + name:28} {shown}"


def trained_model(run: Run, state: State, workdir: Place) -> "LoadedModel":
    """Return the model of a train state, as tlx.load(workdir) would; no array is copied.

    Args:
        run: the run that was trained.
        state: its train state; the model shares its parameters.
        workdir: run directory, where the tokenizer is.

    Returns:
        The model. Parameters that every device has whole are on this process' first device; sharded ones
        stay as they are.
    """
    model = sharded_model(run, state)
    config = model.config
    if config.tokenizer.path is not None:
        tokenizer = dataclasses.replace(config.tokenizer, path=str(fetched_folder(workdir / "tokenizer")))
        config = dataclasses.replace(config, tokenizer=tokenizer)
    params = jax.tree.map(_on_one_device, model.params)
    return dataclasses.replace(model, config=config, params=params)


def sharded_model(run: Run, state: State) -> "LoadedModel":
    """Return the model of a train state within the run's mesh, its parameters sharded as they are trained."""
    # Loaded here: decoding and scoring are not needed to refuse a wrong config, which is to take little time.
    from tlx.api.loaded_model import LoadedModel

    config = run.config
    params = state.params
    if config.adapt.method != "full":
        params = merge_params(
            state.params, state.frozen
        )  # a base with its adapters; a teacher is no part of a model
    execution = dataclasses.replace(config.model.execution, attention="auto")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, execution=execution))
    module = make_module(config, run.tokenizer.vocab)
    return LoadedModel(config, params, run.tokenizer, module, int(jax.device_get(state.step)))


def _on_one_device(leaf: jax.Array) -> jax.Array:
    """The replica of this process' first device, which shares its memory; a sharded array as it is."""
    return leaf.addressable_data(0) if leaf.is_fully_replicated else leaf
