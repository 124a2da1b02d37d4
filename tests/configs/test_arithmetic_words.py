"""The objectives that posttrain/grpo_arithmetic names by a word."""

import pytest

from configs.posttrain import grpo_arithmetic
from tlx.run import finetune_config


@pytest.mark.parametrize("objective", ["grpo", "rloo", "online_dpo", "gkd"])
def test_a_word_has_the_keys_of_its_objective(objective):
    config = grpo_arithmetic.get_config("" if objective == "grpo" else objective)
    assert config.objective.name == objective
    assert set(config.objective) == set(finetune_config(objective).objective)
