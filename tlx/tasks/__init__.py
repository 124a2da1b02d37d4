"""Supervised tasks: one file each, in the table by the name that a config gives.

A task is an objective with labels: it has records in place of text, and metrics.
"""

from tlx.base.lookup import Table

TABLE = Table(
    "objective",
    {
        "chat": "tlx.tasks.chat:TASK",
        "classification": "tlx.tasks.classification:TASK",
        "coreference": "tlx.tasks.coreference:TASK",
        "generation": "tlx.tasks.generation:TASK",
        "language_modeling": "tlx.tasks.language_modeling:TASK",
        "multiple_choice": "tlx.tasks.multiple_choice:TASK",
        "multitask": "tlx.tasks.multitask:TASK",
        "pair_classification": "tlx.tasks.pair_classification:TASK",
        "preference": "tlx.tasks.preference:TASK",
        "question_answering": "tlx.tasks.question_answering:TASK",
        "regression": "tlx.tasks.regression:TASK",
        "reward": "tlx.tasks.reward:TASK",
        "similarity": "tlx.tasks.similarity:TASK",
        "token_classification": "tlx.tasks.token_classification:TASK",
    },
)

CHAT_TASKS = ("chat", "preference")
"""Tasks whose models answer conversations in the chat template of their config."""
