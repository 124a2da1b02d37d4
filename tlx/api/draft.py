"""The drafter of a loaded model: a small run, or the heads that it was trained with."""

from tlx.api.core import ModelCore
from tlx.base.errors import ConfigError
from tlx.decode.drafters import Drafter, OwnHeads, SmallModel
from tlx.models.config import ModelConfig
from tlx.objectives.multi_token import MultiTokenModule

HEADS = "heads"
"""Value of `draft` for the model's own heads."""


def drafter_of(lm: ModelCore, draft: ModelCore | str) -> tuple[Drafter, int | None]:
    """Return what drafts for a model, and the number of positions that both have (None: no limit).

    Args:
        lm: The model.
        draft: A small model, or "heads" for the model's own.

    Returns:
        (drafter, number of positions).

    Raises:
        ConfigError: One is no decoder or cannot go back, the tokenizers differ, or the model has no heads.
    """
    if isinstance(draft, str):
        if lm.kind != "decoder":
            raise ConfigError(f"draft = {draft!r} is for decoders, this is {lm.kind}")
        drafter = _own_heads(lm, draft)
        _check_can_go_back(lm.network.cfg)
        return drafter, lm.max_length
    models = (lm, draft)
    if any(model.kind != "decoder" for model in models):
        raise ConfigError(f"draft: both models must be decoders; they are {lm.kind} and {draft.kind}")
    for model in models:
        _check_can_go_back(model.network.cfg)
    if draft.tokenizer.hash != lm.tokenizer.hash:
        raise ConfigError("draft: the small model has another tokenizer; train or import one with the same")
    draft.require_output()
    limits = [model.max_length for model in models if model.max_length is not None]
    return SmallModel(draft.network, draft.params["model"]), min(limits, default=None)


def _own_heads(lm: ModelCore, draft: str) -> OwnHeads:
    """Return the heads of a model; ConfigError where it has none."""
    if draft != HEADS:
        raise ConfigError(f"draft = {draft!r} must be a loaded model, or {HEADS!r} for the model's own heads")
    if not isinstance(lm.module, MultiTokenModule):
        raise ConfigError(
            f"draft = {HEADS!r}: this model was trained by {lm.config.objective.name}, without heads of further "
            "tokens; train some on it (tlx train --config=pretrain/multi_token:medusa --from=DIR), or give a small "
            "model"
        )
    return OwnHeads(lm.module, lm.params)


def _check_can_go_back(config: ModelConfig) -> None:
    """Raise ConfigError for a model with states, of which none is left of the token before a draft."""
    if "state_space" in config.mixer or config.block_layout == "evolved":
        raise ConfigError(
            "draft: a state space cannot go back to the token before a draft that is not taken, and neither can a "
            "convolution; models must have attention alone (model.mixer, model.block_layout)"
        )
