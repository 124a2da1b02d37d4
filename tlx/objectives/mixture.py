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
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.config import from_dict
from tlx.base.errors import ConfigError, one_of
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec
from tlx.objectives.shared.base import Batch, Objective, ObjectiveModule, ObjectiveSpec
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class MixtureComponent:
    """One objective of the mixture."""

    objective: Any
    """Config of the objective, with its name."""
    rows: int = 1
    """Rows in each bundle, at least 1."""
    loss_weight: float = 1.0
    """Weight of its loss in the sum, above 0."""
    sequence_length: int = 0
    """Its sequence length in tokens; 0 is the data's."""
    label: str = ""
    """Name of its metrics, where two parts share a name; "" is the objective's name."""

    def __post_init__(self) -> None:
        """Build the objective's config from a mapping, as config files have it."""
        if isinstance(self.objective, Mapping):
            from tlx.objectives import TABLE

            # Names of the table only: a saved config must not reach other code through its parts.
            implementation = TABLE.load(str(self.objective.get("name")), allow=())
            config = from_dict(implementation.config_class, self.objective, "config.objective.parts")
            object.__setattr__(self, "objective", config)

    @property
    def name(self) -> str:
        """Name of its metrics and arrays."""
        return self.label or self.objective.name

    @property
    def implementation(self) -> Objective:
        """The Objective instance that the table has under the objective's name."""
        from tlx.objectives import TABLE

        return TABLE.load(self.objective.name, allow=())

    def spec(self, spec: ObjectiveSpec) -> ObjectiveSpec:
        """Return the spec of its examples, given the mixture's."""
        return dataclasses.replace(spec, config=self.objective, length=self.sequence_length or spec.length)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The parts; by default causal and prefix language modelling, half of the rows each."""

    name: str = "mixture"
    """Name in the table of objectives."""
    parts: tuple[MixtureComponent, ...] = (
        MixtureComponent({"name": "clm"}),
        MixtureComponent({"name": "prefix_lm"}),
    )
    """The objectives, at least one, each with a name of its own."""

    def validate(self) -> None:
        """Raise ConfigError for no parts, names that repeat, or values that a part cannot have."""
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"objective.parts are {names}: one or more, each with a label of its own")
        for i, part in enumerate(self.parts):
            field = f"objective.parts[{i}]"
            if part.rows < 1:
                raise ConfigError(f"{field}.rows = {part.rows} must be at least 1")
            if not part.loss_weight > 0:
                raise ConfigError(f"{field}.loss_weight = {part.loss_weight} must be above 0")
            if part.sequence_length < 0:
                raise ConfigError(f"{field}.sequence_length = {part.sequence_length} must not be negative")
            part.objective.validate()


def bundle_rows(spec: ObjectiveSpec) -> list[tuple[MixtureComponent, ObjectiveSpec, WindowSpec]]:
    """Return for each row of a bundle, in order, its part, its spec, and what it reads.

    Raises:
        ConfigError: A part reads anything but packed text.
    """
    rows = []
    for i, part in enumerate(spec.config.parts):
        part_spec = part.spec(spec)
        window_spec = part.implementation.window_spec(part_spec)
        if window_spec.layout != "packed" or window_spec.second_length or window_spec.copies:
            raise ConfigError(
                f"objective.parts[{i}] = {part.objective.name!r} cannot be part of a mixture: it reads more "
                "than packed text"
            )
        rows += [(part, part_spec, window_spec)] * part.rows
    return rows


def window_slice(window: Window, start: int, stop: int, spec: ObjectiveSpec) -> Window:
    """Cut a window from a longer one.

    Args:
        window: The window of a bundle.
        start: First token; below 0 it is preceded by padding.
        stop: Index after the last token.
        spec: What examples depend on.

    Returns:
        Tokens start..stop, with positions and segments that begin anew.
    """
    lead = max(-start, 0)
    inside = slice(max(start, 0), stop)
    tokens = np.pad(window.tokens[inside], (lead, 0))
    segments = np.pad(window.segments[inside], (lead, 0))
    positions = np.pad(window.positions[inside], (lead, 0))
    real = segments > 0
    tokens[~real] = spec.vocab.pad
    if real.any():
        first = int(np.argmax(real))
        positions = np.where(real & (segments == segments[first]), positions - positions[first], positions)
        segments = np.where(real, segments - segments[first] + 1, 0)
    return Window(tokens, segments.astype(np.int32), positions.astype(np.int32), None, window.language)


class MixtureModule(ObjectiveModule):
    """Every part's module, over one tree of parameters."""

    @override
    @nn.compact
    def __call__(self, batch: Batch, carry: Any = None, keys: jax.Array | None = None) -> tuple[Terms, Any]:
        """Return the terms of all parts, and None.

        keys: a PRNG key for each bundle, from which each of its rows has its own.
        """
        params = self._params(batch)
        terms: Terms = {}
        for i, part in enumerate(self.config.parts):
            part_keys = None if keys is None else _row_keys(keys, i, part.rows)
            part_terms, _ = self._module(i).apply({"params": params}, _rows(batch, part), None, part_keys)
            for name, term in part_terms.items():
                terms[f"{part.name}/{name}"] = Term(
                    term.sum, term.weight, term.loss_weight * part.loss_weight
                )
        for name in ("loss", "accuracy"):
            same = [term for key, term in terms.items() if key.endswith(f"/{name}")]
            # Without a weight in the loss: the parts' own terms are minimised.
            total: Any = sum(term.sum for term in same)
            weight: Any = sum(term.weight for term in same)
            terms[name] = Term(total, weight)
        return terms, None

    @override
    def logits(self, batch: Batch, carry: Any = None) -> jax.Array:
        """Return the first part's logits, of a batch of its own."""
        params = self.variables["params"]
        logits: Any = self._module(0).apply({"params": params}, batch, None, method="logits")
        return logits

    def _module(self, index: int) -> ObjectiveModule:
        part = self.config.parts[index]
        implementation = part.implementation
        if self.model.kind not in implementation.kinds:
            field = f"objective.parts[{index}] = {part.objective.name!r}: "
            raise ConfigError(field + one_of("model.kind", self.model.kind, implementation.kinds))
        return implementation.module(part.objective, self.model, self.loss, parent=None)

    def _params(self, batch: Batch) -> dict[str, Any]:
        """Return the union of the parts' parameters: the model's from the first part that has it."""
        if not self.is_initializing():
            return {name: self.get_variable("params", name) for name in self.variables["params"]}
        key = self.make_rng("params")
        drawn = _union(
            [
                self._module(i).init(key, _rows(batch, part))["params"]
                for i, part in enumerate(self.config.parts)
            ]
        )
        return {name: self.param(name, lambda _, name=name: drawn[name]) for name in drawn}


def _rows(batch: Batch, part: MixtureComponent) -> Batch:
    """Return a part's batch, [B * rows, ...]."""
    prefix = part.name + "."
    arrays = {key.removeprefix(prefix): x for key, x in batch.items() if key.startswith(prefix)}
    return {key: x.reshape(-1, *x.shape[2:]) for key, x in arrays.items()}


def _row_keys(keys_B: jax.Array, part: int, rows: int) -> jax.Array:
    """Return a key for each row of a part, [B * rows]."""
    numbers = part * 2**16 + jnp.arange(rows)
    return jax.vmap(lambda key: jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers))(keys_B).reshape(-1)


def _union(trees: list[Any]) -> Any:
    """Return one tree with every leaf of the trees, the first one's where several have it."""
    joined: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            both = isinstance(joined.get(name), Mapping) and isinstance(value, Mapping)
            joined[name] = _union([joined[name], value]) if both else joined.get(name, value)
    return joined


class MixtureObjective(Objective):
    """Several objectives on one model."""

    config_class = Mixture
    module = MixtureModule
    kinds = ("decoder", "encoder", "encoder_decoder")

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return the frame of the first part."""
        part = spec.config.parts[0]
        return part.implementation.frame(part.spec(spec))

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make the row of the first part."""
        part = spec.config.parts[0]
        return part.implementation.clean_example(texts, part.spec(spec), languages)

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return one window for all rows of a bundle, which overlaps as its first row does.

        Raises:
            ConfigError: A part reads anything but packed text.
        """
        rows = [window_spec for _, _, window_spec in bundle_rows(spec)]
        length = rows[0].overlap + sum(row.length - row.overlap for row in rows)
        return WindowSpec(length=length, overlap=rows[0].overlap)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a bundle.

        window: Packed text of all rows.

        Returns:
            The parts' arrays as "PART.KEY" [rows, ...]; `targets` and `weights` of all rows, flat.
        """
        rows = bundle_rows(spec)
        examples: dict[str, list[dict[str, np.ndarray]]] = {part.name: [] for part in spec.config.parts}
        stop = rows[0][2].overlap
        for part, part_spec, window_spec in rows:
            stop += window_spec.length - window_spec.overlap
            text = window_slice(window, stop - window_spec.length, stop, spec)
            examples[part.name].append(part.implementation.example(rng, text, part_spec))
        arrays = {
            f"{name}.{key}": np.stack([row[key] for row in part_examples])
            for name, part_examples in examples.items()
            for key in part_examples[0]
        }
        for key in ("targets", "weights"):
            arrays[key] = np.concatenate([arrays[f"{name}.{key}"].ravel() for name in examples])
        return arrays


OBJECTIVE = MixtureObjective()
