"""Rewards of a loaded reward model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.api.prediction import PredictionMixin
from tlx.base.errors import ConfigError
from tlx.data.readers import Record
from tlx.data.records import RecordPipeline
from tlx.decode.padding import bucket
from tlx.run.spec import spec_of
from tlx.tasks.reward import Reward, RewardTask, on_scale, single_answer_spec


class RewardMixin(PredictionMixin):
    """Numbers for answers, by a model that was trained on comparisons or ratings of answers."""

    def reward(self, prompts: Any, answers: str | Sequence[str]) -> np.ndarray:
        """Compute the reward of answers.

            tlx.load(RM).reward(["How are you?"] * 2, ["Fine.", "Go away."])

        Args:
            prompts: A prompt for each answer: a text, or a list of {"role", "content"} messages. One prompt, a text,
                is that of all answers.
            answers: An answer, or several.

        Returns:
            float32 [N], a number for each answer, on the scale of the records where the model learned ratings.

        Raises:
            ConfigError: The model is no reward model, or numbers of prompts and answers differ.
        """
        config = self.config.objective
        if not isinstance(config, Reward):
            raise ConfigError(
                f"reward is for models of the task 'reward', this is {config.name}; "
                "tlx finetune --config=configs/posttrain/reward.py makes one"
            )
        texts = [answers] if isinstance(answers, str) else list(answers)
        asked = [prompts] * len(texts) if isinstance(prompts, str) else list(prompts)
        if not texts:
            return np.zeros(0, np.float32)
        if len(asked) != len(texts):
            raise ConfigError(f"{len(asked)} prompts and {len(texts)} answers: each answer has a prompt")
        spec = single_answer_spec(spec_of(self.config, self.tokenizer))
        task = RewardTask()
        items = task.answer_items(asked, texts, self.tokenizer, spec)
        records = [Record(f"answer {number}", {}) for number in range(len(items))]
        size = min(bucket(len(items)), self.config.train.batch_size)
        pipeline = RecordPipeline(self.config.data, records, items, task, spec, size, 0, "predict")
        outputs = [
            np.asarray(self._predictor.run(self.params, batch)[1]["reward"])[:, 0]
            for batch in pipeline.epoch_batches()
        ]
        rewards = np.concatenate(outputs)[: len(items)]
        return on_scale(rewards, config).astype(np.float32)
