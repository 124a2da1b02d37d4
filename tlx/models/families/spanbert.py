"""SpanBERT: cased BERT. The published files do not include the span-boundary head."""

import dataclasses

from tlx.models.families import bert
from tlx.models.families.family import resized

BASE = resized(bert.BASE, vocab_size=28996)

FAMILY = dataclasses.replace(
    bert.FAMILY,
    name="spanbert",
    citation="Joshi et al. 2020, SpanBERT: Improving Pre-training by Representing and Predicting Spans, TACL",
    base=BASE,
    sizes={"base": BASE, "large": bert.size(24, 1024, 16, BASE)},
)
