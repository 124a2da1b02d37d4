"""Runs of every shape, as small as they come, on eight simulated devices."""

from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve

SHAPES = ("clm", "mlm", "span_corruption", "plm")

MESHES = {
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "both": {"data": 1, "fsdp": 4, "tensor": 2},
}


def config(shape: str = "clm", mesh: str = "fsdp", **model) -> RunConfig:
    """Width 64, 8 heads, 2 layers, 16 rows of 64 tokens. model: fields of it that are different."""
    values = base_config(shape)
    values.tokenizer.kind = "bytes"
    values.data.sequence_length, values.train.batch_size = 64, 16
    part = values.model
    part.width, part.num_layers, part.attention.num_heads, part.execution.unroll = 64, 2, 8, 1
    part.position.kind = {"plm": "relative_sinusoidal", "span_corruption": "relative_bias"}.get(
        shape, "rotary"
    )
    if shape == "plm":
        part.block_layout, values.objective.mem_len, values.objective.num_predict = "post", 16, 6
    for name, value in model.items():
        part[name] = value
    for axis, size in MESHES[mesh].items():
        values.mesh[axis] = size
    return resolve(values)
