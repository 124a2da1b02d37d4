"""All cases by name."""

from tests.hub import (
    cases_decoder,
    cases_decoder_more,
    cases_encoder,
    cases_encoder_decoder,
    cases_two_stream,
)

CASES = (
    cases_encoder.CASES
    | cases_decoder.CASES
    | cases_decoder_more.CASES
    | cases_encoder_decoder.CASES
    | cases_two_stream.CASES
)
