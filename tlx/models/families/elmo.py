"""ELMo: a bidirectional LSTM language model over characters (objective bilm).

Parameters of the published model, with d = 512, H = 4096, c = 16 and 2048 filters n_w of widths w = 1 .. 7:

    characters   261 c                                           4,176
    filters      sum n_w (w c + 1)                             199,168
    highways     2 x 2 (2048^2 + 2048)                      16,785,408
    projection   2048 d + d                                  1,049,088
    LSTMs        2 directions x 2 layers (8 d H + 4 H + H d) 75,563,008

93,600,848 in total; published: 93.6M. The softmax over 793,471 words is not included (heads/bilm).
"""

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, WeightMapping
from tlx.nn.recurrent import RecurrentConfig

BASE = ModelConfig(
    kind="bilstm",
    vocab_size=793471,  # the 1 Billion Word Benchmark's words
    width=512,
    num_layers=2,
    dropout=0.1,
    recurrent=RecurrentConfig(cell_dim=4096, cell_clip=3.0, projection_clip=3.0),
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return no mappings: transformers has no class for it (hub/elmo.py reads the released files)."""
    return []


FAMILY = Family(
    name="elmo",
    citation="Peters et al. 2018, Deep contextualized word representations, NAACL",
    base=BASE,
    sizes={"base": BASE},
    rows=rows,
)
