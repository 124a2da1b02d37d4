"""M2M-100 and NLLB-200 (dense): BART's block with norms before each part, and sinusoids."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.bart import BART_LARGE, COPIES, fields, rows, size
from tlx.models.families.family import Family, MappedField, resized
from tlx.nn.config import PositionConfig
from tlx.nn.embed import EmbeddingConfig


def sinusoid_theta(width: int) -> float:
    """Return the base of sinusoids whose slowest one of width / 2 is 10000: the division is by width / 2 - 1."""
    half = width // 2
    return 10_000.0 ** (half / (half - 1))


BASE = resized(
    BART_LARGE,
    vocab_size=128112,
    block_layout="pre",
    embedding=EmbeddingConfig(scale=True),
    position=PositionConfig(
        kind="sinusoidal", max_length=1024, theta=sinusoid_theta(1024), sinusoid_offset=2
    ),
    feedforward__activation="relu",
    attention__dropout=0.1,
    head__bias=False,
)
NLLB = resized(BASE, vocab_size=256206)


def _large(base: ModelConfig) -> ModelConfig:
    """The models of 24 + 24 layers."""
    return size(base, 24, 1024, 16, 8192)


def _read_sinusoids(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "position.theta": sinusoid_theta(values.get("d_model", 1024)),
        # Positions are numbered from the padding id + 1.
        "position.sinusoid_offset": values.get("pad_token_id", 1) + 1,
    }


def _fields() -> tuple:
    changed = {"activation_function": "relu", "attention_dropout": 0.1}
    bart = []
    for field in fields(BASE, True):
        key = getattr(field, "key", "")
        bart.append(field.__class__(**{**vars(field), "default": changed[key]}) if key in changed else field)
    sinusoids = MappedField(
        ("pad_token_id",),
        _read_sinusoids,
        lambda config: {"pad_token_id": config.position.sinusoid_offset - 1},
    )
    return (*bart, sinusoids)


FAMILY = Family(
    name="m2m-100",
    citation="Fan et al. 2021, Beyond English-Centric Multilingual Machine Translation, JMLR; NLLB Team 2022, "
    "No Language Left Behind, arXiv:2207.04672",
    base=BASE,
    sizes={
        "418m": BASE,
        "1.2b": _large(BASE),
        "nllb-600m": NLLB,
        "nllb-1.3b": _large(NLLB),
        "nllb-3.3b": size(NLLB, 24, 2048, 16, 8192, position__theta=sinusoid_theta(2048)),
    },
    rows=rows,
    model_type="m2m_100",
    architectures={"M2M100ForConditionalGeneration": (), "M2M100Model": ()},
    fields=_fields(),
    prefix="model.",
    copies=COPIES,
    ignored=(r"embed_positions\.weights?$",),
)
