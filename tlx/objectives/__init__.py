"""Self-supervised objectives: one file each, by the name a config gives."""

from tlx.base.lookup import Table

TABLE = Table(
    "objective",
    {
        "clm": "tlx.objectives.clm:OBJECTIVE",
        "mlm": "tlx.objectives.mlm:OBJECTIVE",
        "nsp": "tlx.objectives.nsp:OBJECTIVE",
        "plm": "tlx.objectives.plm:OBJECTIVE",
        "sop": "tlx.objectives.sop:OBJECTIVE",
        "span_boundary": "tlx.objectives.span_boundary:OBJECTIVE",
        "span_corruption": "tlx.objectives.span_corruption:OBJECTIVE",
    },
)
