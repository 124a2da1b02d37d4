"""Floor 7: tasks that learn from their own answers, in the table by the name that a config gives."""

from tlx.base.lookup import Table

TABLE = Table(
    "objective",
    {
        "gkd": "tlx.rollouts.gkd:TASK",
        "grpo": "tlx.rollouts.grpo:TASK",
        "online_dpo": "tlx.rollouts.online_dpo:TASK",
        "ppo": "tlx.rollouts.ppo:TASK",
        "rloo": "tlx.rollouts.rloo:TASK",
    },
)
