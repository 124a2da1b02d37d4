"""Rewards from a run: a reward model's numbers, or the log-odds of a class of a classifier.

The run is frozen, as a teacher is (training/teacher.py): its parameters stand in State.frozen as "reward_run",
sharded over the mesh, and in no checkpoint. It reads texts, so that its tokenizer, its form of texts and its kind are
its own. All processes compute the rewards of all answers, over the whole mesh.

Shapes: Q answers.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.config import from_dict
from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.hub.place import open_place
from tlx.models.config import ModelConfig
from tlx.nn.losses import LossConfig
from tlx.parallel import constrain
from tlx.rollouts.rewards import SampledAnswer
from tlx.tasks import TABLE
from tlx.tasks.classification import ClassificationTask
from tlx.tasks.reward import RewardTask, on_scale, single_answer_spec
from tlx.tasks.shared.base import Task, TaskSpec
from tlx.text import load_tokenizer
from tlx.text.frames import Frame
from tlx.text.vocabulary import Vocabulary
from tlx.training.directory import find_run_folder, read_run
from tlx.training.state import boxed_params

KINDS = ("reward", "classification")
"""Tasks whose runs give rewards."""

_LEAST_LENGTH = 16  # of the row that parameters are traced with; none depends on it


def abstract_reward_params(config: Any) -> Any:
    """Return the abstract, boxed parameters of the reward run of a RolloutConfig."""
    if not config.reward_run_task or config.reward_run_model is None:
        raise ConfigError(f"objective.reward_run = {config.reward_run!r} must be a run directory")
    task, settings = _task_of(config)
    model = _model_of(config)
    vocab = Vocabulary(model.vocab_size)
    length = model.position.max_length if model.position.kind == "learned" else _LEAST_LENGTH
    spec = task.abstract_spec(settings, model, length, (), vocab)
    example = task.abstract_example(spec)
    batch = {name: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype) for name, leaf in example.items()}
    return boxed_params(task.module(settings, model, LossConfig(), parent=None), batch)


class RewardRun:
    """The reward run of a rollout, without its parameters.

    Args:
        config: RolloutConfig with a reward run, as a run resolves it.

    Raises:
        ConfigError: The run is of another task than KINDS, or lacks the class that is rewarded.
        DataError: The run is not there.
    """

    def __init__(self, config: Any):
        path = config.reward_run
        folder = find_run_folder(open_place(path))
        run = None if folder is None else read_run(folder)
        if folder is None or run is None:
            raise DataError(
                f"objective.reward_run = {path!r} is not a run directory (or a checkpoint of one)"
            )
        task, settings = _task_of(config)
        model = _model_of(config)
        values = run["config"]
        frame = None if values.get("frame") is None else from_dict(Frame, values["frame"], "frame")
        tokenizer = load_tokenizer(folder / "tokenizer")
        length = values["data"]["sequence_length"]
        self._config = config
        self._task = task
        self._tokenizer = tokenizer
        self._spec: TaskSpec = task.make_spec(settings, model, length, (), tokenizer, frame)
        if isinstance(task, RewardTask):
            self._spec = single_answer_spec(self._spec)
        else:
            self._class = _class_index(config, settings)
        self._outputs = jax.jit(self._forward(task.module(settings, model, LossConfig())))

    def rewards(self, params: Any, answers: Sequence[SampledAnswer]) -> np.ndarray:
        """Compute the reward of answers.

        Args:
            params: Parameters of the run, those of State.frozen["reward_run"].
            answers: The answers of a step, a multiple of objective.num_answers.

        Returns:
            float32 [answers].

        Raises:
            DataError: A reward is not finite.
        """
        items = self._items(answers)
        rng = np.random.default_rng(0)
        rows = [self._task.example(rng, item, self._spec) for item in items]
        # As many at a time as there are prompts, which the mesh divides.
        size = max(len(rows) // self._config.num_answers, 1)
        pieces = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            batch = {name: np.stack([row[name] for row in part]) for name in part[0]}
            pieces.append(self._outputs(params, batch))
        rewards = np.concatenate(jax.device_get(pieces))
        if isinstance(self._task, RewardTask):
            rewards = on_scale(rewards, _task_of(self._config)[1])
        if not np.isfinite(rewards).all():
            text = answers[int(np.argmin(np.isfinite(rewards)))].text
            raise DataError(
                f"objective.reward_run = {self._config.reward_run!r} gives {text!r} a number that is not finite"
            )
        return rewards.astype(np.float32)

    def _items(self, answers: Sequence[SampledAnswer]) -> Sequence[Any]:
        if isinstance(self._task, RewardTask):
            prompts = [answer.prompt for answer in answers]
            texts = [answer.text for answer in answers]
            return self._task.answer_items(prompts, texts, self._tokenizer, self._spec)
        records = []
        for number, answer in enumerate(answers):
            # Not str.format: an answer may have braces, and the template nothing but these two names.
            pieces = self._config.reward_text.split("{answer}")
            text = answer.text.join(piece.replace("{prompt}", answer.prompt) for piece in pieces)
            records.append(Record(f"answer {number}", {self._spec.config.text: text}))
        return self._task.prepare(records, self._tokenizer, self._spec, labelled=False)

    def _forward(self, module: Any) -> Any:
        """Return the pure function (params, batch) -> float32 [rows], replicated."""

        def rewards_of(params: Any, batch: Any) -> jax.Array:
            outputs: Any = module.apply({"params": params}, batch, method="outputs")
            if isinstance(self._task, RewardTask):
                rewards_Q = outputs["reward"][:, 0]
            else:
                rewards_Q = log_odds(outputs["logits"], self._class, self._spec.config.multi_label)
            return constrain(rewards_Q, (None,))

        return rewards_of


def log_odds(logits_QC: jax.Array, index: int, independent: bool) -> jax.Array:
    """Compute the log-odds of a class: log p - log(1 - p).

    Args:
        logits_QC: Logits of a classifier.
        index: The class.
        independent: Whether each class has a probability of its own (a sigmoid), and not a share of 1 (a softmax).

    Returns:
        float32 [Q].
    """
    if independent:
        return logits_QC[:, index]
    is_class_C = jnp.arange(logits_QC.shape[1]) == index
    others_Q = jax.nn.logsumexp(jnp.where(is_class_C, -jnp.inf, logits_QC), axis=1)
    return logits_QC[:, index] - others_Q


def _task_of(config: Any) -> tuple[Task, Any]:
    """Return the task of the reward run and its config, whose rows hold one example."""
    values = json.loads(config.reward_run_task)
    name = values["name"]
    if name not in KINDS:
        raise ConfigError(
            f"objective.reward_run = {config.reward_run!r} is a run of {name!r}; rewards come from runs of "
            + " or ".join(KINDS)
        )
    task: Task = TABLE.load(name)
    settings = from_dict(task.config_class, values, "reward_run.objective", allow=())
    if isinstance(task, ClassificationTask):
        settings = dataclasses.replace(settings, packing=False)
    elif config.reward_label:
        raise ConfigError(
            f"objective.reward_label = {config.reward_label!r} is for classifiers; {config.reward_run!r} is a reward "
            "model"
        )
    return task, settings


def _model_of(config: Any) -> ModelConfig:
    model: ModelConfig = config.reward_run_model
    return dataclasses.replace(model, execution=dataclasses.replace(model.execution, attention="auto"))


def _class_index(config: Any, settings: Any) -> int:
    """Return the index of the class that is rewarded; ConfigError where there is none of that name."""
    if config.reward_label not in settings.labels:
        raise ConfigError(one_of("objective.reward_label", config.reward_label, settings.labels))
    return settings.labels.index(config.reward_label)
