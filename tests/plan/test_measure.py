"""What a compiler said becomes a plan: step time by its parts, bytes per chip, and what does not fit."""

import pytest

from tests.plan import tiny
from tlx.plan.compiled import CompiledFacts
from tlx.plan.compilers import TooLarge
from tlx.plan.estimate import estimate
from tlx.plan.measure import measured, too_large
from tlx.plan.target import parse_target

FACTS = CompiledFacts(
    compiler="a compiler",
    argument_bytes=3_000_000,
    output_bytes=2_900_000,
    alias_bytes=2_800_000,
    temp_bytes=50_000_000,
    code_bytes=1_000,
    matmul_flops=10**12,
    collectives={"all-gather": {"fsdp": 2e9}},
    collectives_waited_for={"all-gather": {"fsdp": 1e9}},
    cycles=15_000_000,
    kernels={"splash_mha_fwd_segmented": 2, "splash_mha_dkv_segmented": 2, "splash_mha_dq_segmented": 2},
    operations={},
)


def plan_of(target, **facts):
    config, target = tiny.config(), parse_target(target)
    return measured(estimate(config, target), FACTS._replace(**facts), config, target)


def test_a_tpu_step_is_schedule_kernels_and_what_is_waited_for():
    found = plan_of("tpu:v5e:2x4")
    assert found.step_ms_without_kernels == pytest.approx(10.0)  # 15e6 cycles at 1.5 GHz
    assert found.times["network_waited_for"] == pytest.approx(5.0)  # 1e9 bytes at 2e11 a second
    # 2 x (2 + 4 + 3) products of 2 rows, 8 heads, 64 x 65 / 2 places, 8 wide, on each device.
    flops = 18 * 2 * 2 * 8 * 64 * 65 / 2 * 8
    assert found.times["kernels"] == pytest.approx(flops / 1.97e14 * 1e3)
    assert found.step_ms == pytest.approx(15.0 + found.times["kernels"])
    assert plan_of("tpu:v5e:2x4", cycles=0).step_ms == pytest.approx(10.0)  # no faster than all its traffic
    assert found.memory["total"] == 53_101_000 and found.fits
    assert sum(size for part, size in found.memory.items() if part != "total") == 53_101_000
    assert found.flops_compiled == 8 * 10**12 and found.method == "a compiler"


def test_a_kernel_with_a_cost_of_its_own_takes_its_products_or_its_traffic():
    kernels = {"products": 3, "traffic": 2}
    costs = {"products": [197 * 10**9, 1], "traffic": [1, 819 * 10**6]}
    found = plan_of("tpu:v5e:2x4", kernels=kernels, costs=costs)
    assert found.times["kernels"] == pytest.approx(1.0 + 1.0)


def test_a_chip_of_two_devices_holds_what_both_do():
    found = plan_of("tpu:tpu7x:2x2x1")
    assert found.num_chips == 4 and found.memory["total"] == 2 * 53_101_000
    assert found.collectives == {"all-gather": {"fsdp": 4e9}}
    assert found.peak == pytest.approx(4 * 2.307e15)


def test_a_gpu_step_is_a_roofline():
    name = "__cudnn$fmhaSoftmax"
    found = plan_of("gpu:h100:8", kernels={name: 2}, costs={name: [10**9, 10]})
    kernels = 1e9 / 9.89e14 * 1e3
    assert found.times["kernels"] == pytest.approx(kernels)
    assert found.times["compute"] == pytest.approx(1e12 / 9.89e14 * 1e3 + kernels)
    assert found.step_ms == pytest.approx(2e9 / 4.5e11 * 1e3)  # the links: longer than the products


def test_what_the_compiler_finds_no_place_for():
    config, target = tiny.config(), parse_target("tpu:v5e:2x4")
    found = too_large(estimate(config, target), TooLarge("Ran out of memory", 27 * 2**30), target)
    assert not found.fits and found.memory["total"] == 27 * 2**30
    assert "Ran out of memory" in found.notes[0]
    silent = too_large(estimate(config, target), TooLarge("no", None), target)
    assert silent.memory["total"] > silent.memory_available
