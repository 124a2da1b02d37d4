"""Modules are read as the compilers write them: loops, fusions, kernels, groups of devices."""

import pytest

from tlx.plan import hlo
from tlx.plan.collectives import by_kind_and_axis, collectives
from tlx.plan.compiled import kernels, operations, scheduled_cycles, stated_costs
from tlx.plan.operations import matmul_flops

# As the TPU compiler writes: a loop of three, whose body has a fusion with a gather spread over it twice, a
# kernel whose attributes go over several lines, and a product written as a convolution.
TPU = """HloModule jit_step, is_scheduled=true

%fused_start (p.1: bf16[8,64]) -> bf16[16,64] {
  %p.1 = bf16[8,64]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,64]{1,0} all-gather(%p.1), channel_id=7, replica_groups={{0,1},{2,3}}, dimensions={0}
}

%fused_done (p.2: bf16[8,64]) -> bf16[16,64] {
  %p.2 = bf16[8,64]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,64]{1,0} all-gather(%p.2), channel_id=7, replica_groups={{0,1},{2,3}}, dimensions={0}
}

%fused_product (p.3: bf16[4,16], p.4: bf16[16,32]) -> bf16[4,32] {
  %p.3 = bf16[4,16]{1,0} parameter(0)
  %p.4 = bf16[16,32]{1,0} parameter(1)
  ROOT %convolution.1 = bf16[4,32]{1,0} convolution(%p.3, %p.4), dim_labels=bf_io->bf
}

%body (s: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %s = (s32[]{:T(128)}, bf16[4,16]{1,0}) parameter(0)
  %one = bf16[4,32]{1,0} fusion(%s), kind=kOutput, calls=%fused_product, backend_config={"window_config":{"estimated_cycles":"100"}}
  %two = bf16[16,64]{1,0} fusion(%s), kind=kCustom, calls=%fused_start, backend_config={"window_config":{"estimated_cycles":"10"}}
  %three = bf16[16,64]{1,0} fusion(%s), kind=kCustom, calls=%fused_done
  %splash_mha_fwd.2 = (f32[2]{0}, bf16[4]{0}) custom-call(%one), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128}"
}}, backend_config={"custom":{"cost_estimate":{"flops":"70","transcendentals":"1","bytes_accessed":"9"}}}
  ROOT %t = (s32[]{:T(128)}, bf16[4,16]{1,0}) tuple(%s, %s)
}

%condition (c: (s32[], bf16[4,16])) -> pred[] {
  %c = (s32[]{:T(128)}, bf16[4,16]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[] compare(%c, %bound), direction=LT
}

ENTRY %main (x: bf16[4,16]) -> bf16[4,16] {
  %x = bf16[4,16]{1,0} parameter(0)
  %start = (s32[]{:T(128)}, bf16[4,16]{1,0}) tuple(%x, %x)
  %loop = (s32[]{:T(128)}, bf16[4,16]{1,0}) while(%start), condition=%condition, body=%body
  %copied = bf16[4,16]{1,0} copy(%x), backend_config={"window_config":{"estimated_cycles":"5"}}
  ROOT %all-reduce.3 = f32[4,16]{1,0} all-reduce(%copied), channel_id=9, replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, to_apply=%add
}
"""  # noqa: E501


def test_loops_count_their_iterations_and_fusions_run_inside_their_line():
    module = hlo.parse(TPU)
    assert module.entry == "main" and len(module.computations["body"]) == 6
    assert hlo.execution_counts(module)["body"] == hlo.ExecutionCounts(3, 3)
    assert hlo.execution_counts(module)["fused_product"] == hlo.ExecutionCounts(3, 0)
    assert scheduled_cycles(module) == 3 * (100 + 10) + 5
    assert kernels(module) == {"splash_mha_fwd": 3}
    assert stated_costs(module) == {"splash_mha_fwd": [210, 27]}
    assert matmul_flops(module) == 3 * 2 * 4 * 16 * 32
    assert operations(module)["fusion"] == 3


GPU = """HloModule jit_step

ENTRY %main (x: bf16[6,4,16], w: bf16[6,16,32]) -> (bf16[6,4,32], s8[64]) {
  %x = bf16[6,4,16]{2,1,0} parameter(0)
  %w = bf16[6,16,32]{2,1,0} parameter(1)
  ROOT %custom-call.1 = (bf16[6,4,32]{2,1,0}, s8[64]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}
}
"""  # noqa: E501


CUDNN = """HloModule jit_step

ENTRY %main (q: bf16[4,6,2,8], k: bf16[4,10,2,8], b: bf16[4,2,6,10]) -> (bf16[4,2,6,8], u8[0]) {
  %q = bf16[4,6,2,8]{3,2,1,0} parameter(0)
  %k = bf16[4,10,2,8]{3,2,1,0} parameter(1)
  %b = bf16[4,2,6,10]{3,2,1,0} parameter(2)
  ROOT %fwd.7 = (bf16[4,2,6,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k, %b), custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward", operand_layout_constraints={bf16[4,6,2,8]{3,2,1,0}, bf16[4,10,2,8]{3,2,1,0}, bf16[4,10,2,8]{3,2,1,0}, bf16[4,2,6,10]{3,2,1,0}}, backend_config={}
}
"""  # noqa: E501


def test_attention_of_cudnn_costs_what_its_shapes_say():
    name = "__cudnn$fmhaScaleBiasSoftmaxBackward"
    moved = 2 * (4 * 6 * 16 + 2 * 4 * 10 * 16 + 4 * 2 * 60 + 4 * 6 * 16)
    products = 5 * 2 * 4 * 2 * 6 * 10 * 8
    assert stated_costs(hlo.parse(CUDNN)) == {name: [products, moved]}
    # Query t of a causal kernel reads t keys.
    causal = CUDNN.replace("backend_config={}", 'backend_config={"mask_type": "CAUSAL"}')
    assert stated_costs(hlo.parse(causal)) == {name: [products * 11 // 20, moved]}


def test_products_that_the_gpu_compiler_hands_to_cublas_count():
    module = hlo.parse(GPU)
    assert matmul_flops(module) == 6 * 2 * 4 * 16 * 32
    assert kernels(module) == {}


def test_a_gather_spread_over_fusions_counts_once_and_groups_lie_along_their_axes():
    found = collectives(hlo.parse(TPU), {"data": 2, "fsdp": 2})
    assert [(one.kind, one.axes, one.times, one.overlapped) for one in found] == [
        ("all-gather", ("fsdp",), 3, True),
        ("all-reduce", ("fsdp",), 1, False),  # along 'a' of devices numbered along 'b' first
    ]
    # Half of 16 x 64 x 2 bytes, three times; all of 4 x 16 x 2 bytes, twice a half.
    assert by_kind_and_axis(found) == {"all-gather": {"fsdp": 3 * 1024}, "all-reduce": {"fsdp": 128}}


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("[4,2]<=[8]", ("tensor",)),
        ("[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("[1,8]<=[8]", ("data", "fsdp", "tensor")),
        ("mesh['x'=2,'y'=4] {'y'}", ("fsdp", "tensor")),
        ("mesh['x'=2,'y'=4] {'y':(2)2}", ("tensor",)),
        ("mesh['x'=2,'y'=4] {'x'}", ("data",)),
    ],
)
def test_groups_however_they_are_written(groups, axes):
    text = TPU.replace("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", groups)
    found = collectives(hlo.parse(text), {"data": 2, "fsdp": 2, "tensor": 2})
    assert found[-1].axes == axes


def test_a_batch_written_as_a_window_counts_its_products_only():
    """Four products of [3, 5] and [5, 7], as one convolution over a padded window of four."""
    text = """ENTRY %main (x: f32[4,3,5], y: f32[4,5,7]) -> f32[4,3,7] {
  %x = f32[4,3,5]{2,1,0} parameter(0)
  %y = f32[4,5,7]{2,1,0} parameter(1)
  ROOT %conv = f32[4,3,7]{2,1,0} convolution(%x, %y), window={size=4 stride=3 pad=3_3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}
"""  # noqa: E501
    assert matmul_flops(hlo.parse(text)) == 2 * 4 * 3 * 5 * 7


def test_a_loop_without_a_bound_and_a_text_without_an_entry():
    with pytest.raises(ValueError, match="loop loop: its condition"):
        hlo.execution_counts(hlo.parse(TPU.replace("constant(3)", "iota(3)")))
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")
