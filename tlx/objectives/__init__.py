"""Self-supervised objectives: one file each, in the table by the name that a config gives."""

from tlx.base.lookup import Table

TABLE = Table(
    "objective",
    {
        "bart": "tlx.objectives.bart:OBJECTIVE",
        "bilm": "tlx.objectives.bilm:OBJECTIVE",
        "clm": "tlx.objectives.clm:OBJECTIVE",
        "ctrl": "tlx.objectives.ctrl:OBJECTIVE",
        "denoising": "tlx.objectives.denoising:OBJECTIVE",
        "deshuffling": "tlx.objectives.deshuffling:OBJECTIVE",
        "dialogue": "tlx.objectives.dialogue:OBJECTIVE",
        "distillation": "tlx.objectives.distillation:OBJECTIVE",
        "layer_distillation": "tlx.objectives.layer_distillation:OBJECTIVE",
        "mass": "tlx.objectives.mass:OBJECTIVE",
        "mbart": "tlx.objectives.mbart:OBJECTIVE",
        "mixture": "tlx.objectives.mixture:OBJECTIVE",
        "mlm": "tlx.objectives.mlm:OBJECTIVE",
        "multi_token": "tlx.objectives.multi_token:OBJECTIVE",
        "nsp": "tlx.objectives.nsp:OBJECTIVE",
        "plm": "tlx.objectives.plm:OBJECTIVE",
        "prefix_lm": "tlx.objectives.prefix_lm:OBJECTIVE",
        "recurrent_lm": "tlx.objectives.recurrent_lm:OBJECTIVE",
        "rtd": "tlx.objectives.rtd:OBJECTIVE",
        "seq2seq_dialogue": "tlx.objectives.seq2seq_dialogue:OBJECTIVE",
        "sop": "tlx.objectives.sop:OBJECTIVE",
        "span_boundary": "tlx.objectives.span_boundary:OBJECTIVE",
        "span_corruption": "tlx.objectives.span_corruption:OBJECTIVE",
        "text_to_text": "tlx.objectives.text_to_text:OBJECTIVE",
        "ul2": "tlx.objectives.ul2:OBJECTIVE",
        "xlm": "tlx.objectives.xlm:OBJECTIVE",
    },
)
