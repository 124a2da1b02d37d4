"""ELECTRA: a small generator fills in masked tokens, the model says of every token whether it was replaced.

A row has two segments of one document (shared/electra_rows.py), or is packed text as in masked language modelling.
google-research/electra pretrain/pretrain_helpers.py and run_pretraining.py: of n tokens max(1, min(N,
round(n * masking_rate))) positions, N = int((masking_rate + .005) * length), drawn with replacement from the
ordinary tokens (19 draws of 126 are 17.7 positions on average); each draw shows mask (85%) or changes
nothing. The generator predicts them, a sample of its prediction (Gumbel-max, no gradient) takes their place
in the original text, and a sampled token that equals the original counts as real. Loss: MLM mean over draws
+ `rtd_weight` * mean over all tokens of the row, cls and sep too, of the binary cross-entropy. A position
drawn twice is filled by its first draw; the official code fills in the mean of the two ids, rounded down.

Sharing of embeddings: "all" is ELECTRA's, tables and the norm after them are one for both; "gdes" is
DeBERTa v3's: the model reads the generator's token table without sending it gradients, plus a difference of
its own that begins at zero ("heads/difference": `standalone` adds it for use without a generator); "none".

DeBERTa v3 (microsoft/DeBERTa apps/tasks/rtd_task.py) draws no position twice (`draws`), shows mask at all of them
(`mask_token_fraction` 1), and its generator has the enhanced mask decoder (`mask_decoder`, see mlm.py). It has two
optimizers, one for the generator's loss and one for the model's. With "gdes" no gradient of either loss reaches the
other's parameters, so that one update with train.clip_groups equals those of two optimizers on the same gradients
(training/clipping.py). One difference is left: there (rtd_task.py get_decoupled_loss_fn, training/trainer.py
_train_step) the generator is updated before the model reads its table, on tokens drawn before that; here the model
reads the table that the tokens were drawn with, which is older by one update. The official order would take a
provisional update between two backward passes, each over all microbatches, in the step that all systems share; it is
left out. Measured by both orders on the same batches (deberta_v3.py:tiny, 20 steps at the largest rate without
warm-up, tests/objectives/test_rtd.py, 1 December 2026): the parameters are apart by .55% of their norm, and by 4% of
the way that they went in these steps.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec, window_of_texts
from tlx.models.config import ModelConfig
from tlx.models.heads import DetectionHead, MaskedHead, PositionTable
from tlx.models.transformer import Transformer, token_table
from tlx.models.transformer_stack import StackInputs, TransformerStack
from tlx.nn import embed
from tlx.nn.dropout import fold
from tlx.nn.embed import Unembedding
from tlx.nn.losses import cross_entropy
from tlx.nn.norm import Norm
from tlx.objectives.mlm import check_mask_decoder, with_special_tokens
from tlx.objectives.shared.arrays import leading_ones, pad_to_length, sparse_targets
from tlx.objectives.shared.base import (
    Batch,
    Objective,
    ObjectiveModule,
    ObjectiveSpec,
    Predictions,
    at_positions,
)
from tlx.objectives.shared.electra_rows import two_segments
from tlx.objectives.shared.masking import one_of_each_window
from tlx.parallel.sharding import logical
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class RTD:
    """Replaced-token detection: masking, size of the generator, and weights of the losses."""

    name: str = "rtd"
    """Name in the table of objectives."""
    rows: Literal["segments", "packed"] = "segments"
    """Text of a row: "segments", two of one document with types of their own (ELECTRA), or "packed", documents one
    after the other without types (DeBERTa v3)."""
    single_segment_fraction: float = 0.1
    """Fraction of the rows of "segments" that have one segment, 0 to 1."""
    short_sequence_fraction: float = 0.05
    """Fraction of the rows of "segments" that have a random length, 0 to 1."""
    masking_rate: float = 0.15
    """Draws as a fraction of a row's tokens, above 0 and at most 1."""
    mask_token_fraction: float = 0.85
    """Fraction of the draws that are shown to the generator as mask; the others as they are."""
    draws: Literal["with_replacement", "without_replacement", "window"] = "with_replacement"
    """Positions that are drawn: any, perhaps twice (ELECTRA); each at most once; or, as DeBERTa's code does it, one
    of each window of int(1 / masking_rate) tokens (see masking.py)."""
    rtd_weight: float = 50.0
    """Weight of the detection loss."""
    generator_fraction: float = 0.25
    """Width of the generator as a fraction of the model's, with heads of 64."""
    generator_layers: int = 0
    """Layers of the generator; 0 is as many as the model."""
    mask_decoder: int = 0
    """Times that the generator's last layer runs on queries with absolute positions (DeBERTa v3: 2); 0: none."""
    temperature: float = 1.0
    """Temperature of the generator's samples, above 0."""
    embedding_sharing: Literal["all", "gdes", "none"] = "all"
    """Sharing of embeddings with the generator: see the module's docstring."""
    head: Literal["electra", "deberta"] = "electra"
    """Detection head; "deberta" (v3) first adds the first token's hidden state to each and normalises."""

    def validate(self) -> None:
        """Raise ConfigError for a share outside its range."""
        for name in ("masking_rate", "mask_token_fraction", "generator_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be above 0 and at most 1")
        for name in ("single_segment_fraction", "short_sequence_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must lie in 0..1")
        for name in ("rtd_weight", "generator_layers", "mask_decoder"):
            if getattr(self, name) < 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must not be negative")
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature = {self.temperature} must be above 0")


def max_predictions(length: int, config: RTD) -> int:
    """Return the draws of a full row: 19 of 128."""
    return max(int((config.masking_rate + 0.005) * length), 1)


def generator_config(model: ModelConfig, config: RTD) -> ModelConfig:
    """Return the generator's config; its tables are as wide as the model's and projected."""
    width = max(int(model.width * config.generator_fraction), 1)
    tables = model.embedding
    position = model.position
    if config.embedding_sharing == "all":  # the model's own tables come in, added up and normalised
        tables = dataclasses.replace(tables, norm=False, num_types=0, num_languages=0, scale=False)
        if position.kind in ("learned", "sinusoidal"):
            position = dataclasses.replace(position, kind="none")
    table_width = model.embedding.width or model.width
    return dataclasses.replace(
        model,
        width=width,
        num_layers=config.generator_layers or model.num_layers,
        attention=dataclasses.replace(
            model.attention, num_heads=max(1, width // 64), num_kv_heads=0, head_dim=0
        ),
        feedforward=dataclasses.replace(model.feedforward, ff_dim=4 * width),
        embedding=dataclasses.replace(tables, width=table_width if table_width != width else 0),
        position=position,
    )


class Generator(nn.Module):
    """The parameters "heads/generator": layers, and tables where they are not shared."""

    cfg: ModelConfig
    own_table: bool

    def setup(self) -> None:
        """Build the layers, and the token table where it is not shared."""
        self.tower = TransformerStack(self.cfg.block("encoder"), self.cfg.embedding, self.cfg.share_layers)
        if self.own_table:
            self.embedding = token_table(self.cfg)

    def __call__(
        self, x_BTE: jax.Array, batch: Batch, keys: jax.Array | None, query_BTD: jax.Array | None, times: int
    ) -> jax.Array:
        """Compute hidden states.

        Args:
            x_BTE: Embedded tokens.
            batch: Arrays of the batch.
            keys: A PRNG key for each row; None draws nothing.
            query_BTD: What the mask decoder adds to the last layer's input; None: no mask decoder.
            times: Times that the last layer runs on queries; 0: no mask decoder.

        Returns:
            [B, T, D].
        """
        inputs = StackInputs(batch["positions"], batch["segments"], types_BT=batch.get("types"))
        inputs = inputs._replace(query_BTD=query_BTD, query_passes=times)
        return self.tower(x_BTE, inputs, keys_B=keys).hidden


class RTDHeads(nn.Module):
    """The parameters "heads/generator", "heads/mlm" (the generator's) and "heads/rtd".

    Where the config asks for them also "heads/places" (the generator's), "heads/rtd_norm" and "heads/difference".
    """

    model: ModelConfig
    config: RTD

    def setup(self) -> None:
        """Build the generator and the heads."""
        cfg = self.model
        generator = generator_config(cfg, self.config)
        self.generator = Generator(generator, self.config.embedding_sharing == "none")
        self.mlm = MaskedHead(generator)
        if self.config.mask_decoder:
            self.places = PositionTable(generator)
        self.rtd = DetectionHead(cfg)
        if self.config.head == "deberta":
            self.rtd_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)
        if self.config.embedding_sharing == "gdes":
            shape = (cfg.padded_vocab, cfg.embedding.width or cfg.width)
            init = logical(nn.initializers.zeros_init(), ("vocab", "embed"))
            self.difference = self.param("difference", init, shape, jnp.dtype(cfg.param_dtype))


class RTDModule(ObjectiveModule):
    """The model is the discriminator; the generator is a head."""

    def setup(self) -> None:
        """Build the language model and the heads."""
        self.lm = Transformer(self.model, name="model")
        self.heads = RTDHeads(self.model, self.config)

    @override
    def standalone(self, params: Any) -> Any:
        """Return the model with a token table of its own: "gdes" adds its difference to the generator's."""
        heads = dict(params["heads"])
        if "difference" not in heads:
            return params
        table = {"table": params["model"]["embedding"]["table"] + heads.pop("difference")}
        return {**params, "model": {**params["model"], "embedding": table}, "heads": heads}

    @override
    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Return what the generator predicts `targets` from.

        Returns:
            The generator's transformed hidden states [B, P, E] at `target_positions` with the token table,
            and None.
        """
        generator = self.heads.generator
        embedding = generator.embedding if self.config.embedding_sharing == "none" else self.lm.embedding
        x_BTE = embedding(batch["tokens"])
        table: Any = embedding.table
        if self.config.embedding_sharing == "all":
            front = self.lm.encoder.front
            x_BTE = front(x_BTE, batch["positions"], batch.get("types"), None, tables_only=True)
        times = self.config.mask_decoder
        query_BTD = None
        if times:
            check_mask_decoder(times, self.model, batch["positions"].shape[1])
            query_BTD = self.heads.places(batch["positions"])
        hidden_BTD = generator(x_BTE, batch, keys, query_BTD, times)
        hidden_BPD = at_positions(hidden_BTD, batch["target_positions"])
        unembedding = Unembedding(table, None, 1.0, self.model.vocab_size)
        return Predictions(*self.heads.mlm(hidden_BPD, unembedding)), None

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the generator's terms, "rtd_loss", and the accuracy, precision and recall of detection."""
        predictions, _ = self.predictions(batch, None, fold(keys, 2**20))  # unlike the model's
        terms = cross_entropy(*predictions, batch["targets"], batch["weights"], self.loss)
        tokens = self.filled(batch, predictions)
        replaced = tokens != batch["original_tokens"]
        logits = self.detected(tokens, batch, keys).astype(jnp.float32)
        losses = jax.nn.softplus(logits) - jnp.where(replaced, logits, 0.0)
        real = (batch["segments"] > 0).astype(jnp.float32)
        detected = logits > 0
        hits = detected & replaced
        count = jnp.sum(real)
        terms["rtd_loss"] = Term(jnp.sum(losses * real), count, self.config.rtd_weight)
        terms["rtd_accuracy"] = Term(jnp.sum((detected == replaced) * real), count)
        terms["rtd_precision"] = Term(jnp.sum(hits * real), jnp.sum(detected * real))
        terms["rtd_recall"] = Term(jnp.sum(hits * real), jnp.sum(replaced * real))
        return terms, None

    def filled(self, batch: Batch, predictions: Predictions) -> jax.Array:
        """Return int [B, T], the original text with samples of the predictions at `fill_positions`.

        The noise is the batch's own (`noise`), so that an evaluation samples the same each time.
        """
        logits = jax.lax.stop_gradient(embed.logits(*predictions)) / self.config.temperature
        keys = jax.vmap(jax.random.key)(batch["noise"])
        gumbel = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
        samples = jnp.argmax(logits + gumbel, axis=-1).astype(jnp.int32)
        original = jnp.asarray(batch["original_tokens"])
        rows = jnp.arange(len(original))[:, None]
        # Draws that fill nothing point to the first token, which stays what it is.
        return original.at[rows, batch["fill_positions"]].set(samples).at[:, 0].set(original[:, 0])

    def detected(self, tokens: jax.Array, batch: Batch, keys: jax.Array | None) -> jax.Array:
        """Compute the discriminator's logits.

        Args:
            tokens: int [B, T], the text with the generator's samples.
            batch: Arrays of the batch.
            keys: A PRNG key for each row; None draws nothing.

        Returns:
            Logits [B, T], above 0 where the model takes a token for replaced.
        """
        if self.config.embedding_sharing == "gdes":
            x_BTE = jax.lax.stop_gradient(self.lm.embedding(tokens))
            x_BTE = x_BTE + jnp.take(self.heads.difference, tokens, axis=0).astype(x_BTE.dtype)
            # So that an untied output table is initialised.
            self.lm.unembedding()
            inputs = StackInputs(batch["positions"], batch["segments"], types_BT=batch.get("types"))
            hidden_BTD = self.lm.encoder(x_BTE, inputs, keys_B=keys).hidden
        else:
            hidden_BTD = self.lm({**batch, "tokens": tokens}, keys=keys)
        if self.config.head == "deberta":
            hidden_BTD = self.heads.rtd_norm(hidden_BTD + hidden_BTD[:, :1])
        return self.heads.rtd(hidden_BTD)


class RTDObjective(Objective):
    """ELECTRA's replaced-token detection."""

    config_class = RTD
    module = RTDModule
    kinds = ("encoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return cls before a text, sep after each; the second of two has a type of its own, in packed rows none."""
        vocab = spec.vocab
        second_type = int(spec.config.rows == "segments")
        return Frame(before=(vocab.cls,), between=(vocab.sep,), after=(vocab.sep,), second_type=second_type)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row of one text, or of two segments, in which nothing is replaced."""
        rng = np.random.default_rng(0)
        if spec.config.rows == "segments":
            row = self._row(rng, *_of_segments(texts, spec), spec)
        else:
            row = self.example(
                rng, window_of_texts(self.window_spec(spec), texts, spec.vocab, languages), spec
            )
        return {**row, "tokens": row["original_tokens"]}

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return windows that leave room for cls and sep, pieces of documents or packed.

        Raises:
            ConfigError: There is no room.
        """
        segments = spec.config.rows == "segments"
        least = 5 if segments else 3
        if spec.length < least:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least {least} for rtd")
        return WindowSpec(length=spec.length - 2, layout="document" if segments else "packed")

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row with masked tokens for the generator.

        window: A piece of a document, or packed text, [length - 2].

        Returns:
            tokens (what the generator sees), original_tokens, positions, segments [length], and types [length] of
            two segments; target_positions in the order drawn, targets, weights and fill_positions (0 for a position
            drawn before) [P]; noise [].
        """
        if spec.config.rows == "segments":
            return self._row(rng, *_of_segments(two_segments(rng, window, spec), spec), spec)
        return self._row(rng, with_special_tokens(window, spec), {}, spec)

    def _row(
        self, rng: np.random.Generator, text: Window, types: dict[str, np.ndarray], spec: ObjectiveSpec
    ) -> dict[str, np.ndarray]:
        """Make the row of a text with its special ids, [length]; `types` are arrays that it has besides."""
        config = spec.config
        vocab = spec.vocab
        num_real = int(np.count_nonzero(text.segments))
        size = max_predictions(spec.length, config)
        candidates = np.flatnonzero(~vocab.special[text.tokens[:num_real]])
        # In float32, as the official code rounds.
        count = max(1, min(size, int(np.rint(np.float32(num_real) * np.float32(config.masking_rate)))))
        drawn = candidates[_draw(rng, len(candidates), count, config)]
        count = len(drawn)
        shown = text.tokens.copy()
        shown[drawn[rng.random(count) < config.mask_token_fraction]] = vocab.mask
        fills = np.zeros(size, np.int32)
        first = np.unique(drawn, return_index=True)[1]
        fills[first] = drawn[first]
        return {
            "tokens": shown,
            "original_tokens": text.tokens,
            "positions": text.positions,
            "segments": text.segments,
            **types,
            **sparse_targets(text.tokens, drawn, size, vocab.pad),
            "fill_positions": fills,
            "noise": np.array(rng.integers(2**31), np.int32),
        }


def _draw(rng: np.random.Generator, num_candidates: int, count: int, config: RTD) -> np.ndarray:
    """Draw the indices of `count` candidates as `config.draws` says; fewer where there are not so many."""
    if not num_candidates:
        return np.zeros(0, np.int64)
    if config.draws == "window":
        return one_of_each_window(rng, num_candidates, count, config.masking_rate)
    if config.draws == "without_replacement":
        return rng.choice(num_candidates, min(count, num_candidates), replace=False, shuffle=False)
    return rng.integers(0, num_candidates, count)


def _of_segments(texts: Sequence[np.ndarray], spec: ObjectiveSpec) -> tuple[Window, dict[str, np.ndarray]]:
    """Return cls A sep [B sep] as a window [length], and `types`; B may be missing or empty."""
    vocab = spec.vocab
    parts = [text for text in texts if len(text)]
    pieces = [[vocab.cls]] + [piece for part in parts for piece in (part, [vocab.sep])]
    ids = np.concatenate(pieces) if parts else np.zeros(0, np.int32)
    # cls and the sep after A are A's.
    types = np.arange(len(ids)) > len(parts[0]) + 1 if parts else ids
    window = Window(
        pad_to_length(ids, spec.length, vocab.pad),
        leading_ones(len(ids), spec.length),
        pad_to_length(np.arange(len(ids)), spec.length),
    )
    return window, {"types": pad_to_length(types, spec.length)}


OBJECTIVE = RTDObjective()
