"""Several objectives in one run: each has its share of every batch, its own loss and its own metrics.

A row of the batch is a bundle: `rows` rows of each part, made of one long window of text that the parts cut
up between them. So batch k stays a function of (seed, k), every batch has the same shares, and the bundle
goes through microbatches and meshes whole. All parts share the model ("model"), each has its own heads. The
loss is the sum of the parts' losses, each divided by its own weight and times its `loss_weight`; their terms
are called "PART/TERM", "loss" and "accuracy" are over all targets alike.

A batch has for each part the arrays of its examples as "PART.KEY" [B, rows, ...], and `targets` and `weights`
of all of them, [B, all targets of a bundle]. A part is called as its objective, or `label`.

Parts read packed text: windows of a document or a stream, pairs and memories cannot be cut from a bundle.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.config import from_dict
from tlx.base.errors import ConfigError, one_of
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.base import Batch, Objective, ObjectiveModule, ObjectiveSpec


@dataclasses.dataclass(frozen=True)
class MixtureComponent:
    """One objective of the mixture.

    objective: its config, with its name. rows: in each bundle. loss_weight: of its loss in the sum.
    sequence_length: its sequence length; 0 is the data's. label: what its metrics are called, where two parts
    share a name.
    """

    objective: Any
    rows: int = 1
    loss_weight: float = 1.0
    sequence_length: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.objective, Mapping):
            from tlx.objectives import TABLE

            # Names of the table only: a saved config must not reach other code through its parts.
            parts = TABLE.load(str(self.objective.get("name")), allow=())
            built = from_dict(parts.config_class, self.objective, "config.objective.parts")
            object.__setattr__(self, "objective", built)

    @property
    def name(self) -> str:
        """What its metrics and arrays are called."""
        return self.label or self.objective.name

    @property
    def parts(self) -> Objective:
        """The halves of its objective."""
        from tlx.objectives import TABLE

        return TABLE.load(self.objective.name, allow=())

    def spec(self, spec: ObjectiveSpec) -> ObjectiveSpec:
        """The spec of its examples."""
        return dataclasses.replace(spec, config=self.objective, length=self.sequence_length or spec.length)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The parts; by default causal and prefix language modelling, half of the rows each."""

    name: str = "mixture"
    parts: tuple[MixtureComponent, ...] = (
        MixtureComponent({"name": "clm"}),
        MixtureComponent({"name": "prefix_lm"}),
    )

    def validate(self) -> None:
        """Raises ConfigError for no parts, names that repeat, or values that a part cannot have."""
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"objective.parts are {names}: one or more, each with a label of its own")
        for i, part in enumerate(self.parts):
            where = f"objective.parts[{i}]"
            if part.rows < 1:
                raise ConfigError(f"{where}.rows = {part.rows} must be at least 1")
            if not part.loss_weight > 0:
                raise ConfigError(f"{where}.loss_weight = {part.loss_weight} must be above 0")
            if part.sequence_length < 0:
                raise ConfigError(f"{where}.sequence_length = {part.sequence_length} must not be negative")
            part.objective.validate()


def pieces(spec: ObjectiveSpec) -> list[tuple[MixtureComponent, ObjectiveSpec, WindowSpec]]:
    """For each row of a bundle, in order: its part, spec, and what it reads. ConfigError as `reads`."""
    found = []
    for i, part in enumerate(spec.config.parts):
        own = part.spec(spec)
        reads = part.parts.reads(own)
        if reads.layout != "packed" or reads.second_length or reads.copies:
            raise ConfigError(
                f"objective.parts[{i}] = {part.objective.name!r} cannot be part of a mixture: it reads more "
                "than packed text"
            )
        found += [(part, own, reads)] * part.rows
    return found


def reads(spec: ObjectiveSpec) -> WindowSpec:
    """One window for all rows of a bundle, which overlaps as its first row does; ConfigError if a part
    reads anything but packed text."""
    rows = [reads for _, _, reads in pieces(spec)]
    return WindowSpec(
        length=rows[0].overlap + sum(r.length - r.overlap for r in rows), overlap=rows[0].overlap
    )


def example(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
    """The parts' arrays as "PART.KEY" [rows, ...]; `targets` and `weights` of all rows, flat."""
    rows = pieces(spec)
    made: dict[str, list[dict[str, np.ndarray]]] = {part.name: [] for part in spec.config.parts}
    stop = rows[0][2].overlap
    for part, own, one in rows:
        stop += one.length - one.overlap
        made[part.name].append(part.parts.example(rng, piece(window, stop - one.length, stop, spec), own))
    arrays = {
        f"{name}.{key}": np.stack([row[key] for row in examples])
        for name, examples in made.items()
        for key in examples[0]
    }
    for key in ("targets", "weights"):
        arrays[key] = np.concatenate([arrays[f"{name}.{key}"].ravel() for name in made])
    return arrays


def piece(window: Window, start: int, stop: int, spec: ObjectiveSpec) -> Window:
    """The window's tokens start..stop, as a window of its own; padding before its first one."""
    lead, here = max(-start, 0), slice(max(start, 0), stop)
    tokens, segments, positions = (np.pad(array[here], (lead, 0)) for array in window[:3])
    real = segments > 0
    tokens[~real] = spec.vocab.pad
    if real.any():
        first = int(np.argmax(real))
        positions = np.where(real & (segments == segments[first]), positions - positions[first], positions)
        segments = np.where(real, segments - segments[first] + 1, 0)
    return Window(tokens, segments.astype(np.int32), positions.astype(np.int32), None, window.language)


class MixtureModule(ObjectiveModule):
    """Every part's module, over one tree of parameters."""

    @nn.compact
    def __call__(self, batch: Batch, carry: Any = None, keys: jax.Array | None = None) -> tuple[Terms, Any]:
        """(terms, None). keys: a PRNG key for each bundle, from which each of its rows has its own."""
        params = self._params(batch)
        terms: Terms = {}
        for i, part in enumerate(self.config.parts):
            own_keys = None if keys is None else _row_keys(keys, i, part.rows)
            found, _ = self._module(i).apply({"params": params}, _rows(batch, part), None, own_keys)
            for name, term in found.items():
                terms[f"{part.name}/{name}"] = Term(
                    term.sum, term.weight, term.loss_weight * part.loss_weight
                )
        for name in ("loss", "accuracy"):
            same = [term for key, term in terms.items() if key.endswith(f"/{name}")]
            terms[name] = Term(sum(term.sum for term in same), sum(term.weight for term in same))
        return terms, None

    def logits(self, batch: Batch, carry: Any = None) -> jax.Array:
        """As the first part's, of a batch of its own."""
        return self._module(0).apply({"params": self.variables["params"]}, batch, None, method="logits")

    def _module(self, index: int) -> ObjectiveModule:
        part = self.config.parts[index]
        if self.model.kind not in part.parts.kinds:
            where = f"objective.parts[{index}] = {part.objective.name!r}: "
            raise ConfigError(where + one_of("model.kind", self.model.kind, part.parts.kinds))
        return part.parts.module(part.objective, self.model, self.loss, parent=None)

    def _params(self, batch: Batch) -> dict[str, Any]:
        """The union of the parts' parameters: the model's from the first part that has it."""
        if not self.is_initializing():
            return {name: self.get_variable("params", name) for name in self.variables["params"]}
        key, parts = self.make_rng("params"), enumerate(self.config.parts)
        made = _union([self._module(i).init(key, _rows(batch, part))["params"] for i, part in parts])
        return {name: self.param(name, lambda _, name=name: made[name]) for name in made}


def _rows(batch: Batch, part: MixtureComponent) -> Batch:
    """A part's batch, [B * rows, ...]."""
    prefix = part.name + "."
    own = {key.removeprefix(prefix): x for key, x in batch.items() if key.startswith(prefix)}
    return {key: x.reshape(-1, *x.shape[2:]) for key, x in own.items()}


def _row_keys(keys_B: jax.Array, part: int, rows: int) -> jax.Array:
    """A key for each row of a part, [B * rows]."""
    numbers = part * 2**16 + jnp.arange(rows)
    return jax.vmap(lambda key: jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers))(keys_B).reshape(-1)


def _union(trees: list[Any]) -> Any:
    """One tree with every leaf of the trees, the first one's where several have it."""
    joined: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            both = isinstance(joined.get(name), Mapping) and isinstance(value, Mapping)
            joined[name] = _union([joined[name], value]) if both else joined.get(name, value)
    return joined


OBJECTIVE = Objective(Mixture, reads, example, MixtureModule, kinds=("decoder", "encoder", "encoder_decoder"))
