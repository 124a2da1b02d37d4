"""A model's initialisation is traced once before it is compiled, whoever asks for its parameters."""

import flax.linen as nn
import jax
import pytest

from tests.cli import tiny
from tests.tiers import tiers
from tlx.cli import flags
from tlx.objectives.shared.base import ObjectiveModule
from tlx.plan.estimate import estimate
from tlx.plan.target import parse_target
from tlx.run.assemble import assemble
from tlx.run.checks import check_devices, resolve
from tlx.run.spec import abstract_batch
from tlx.text import make_tokenizer
from tlx.training import state as states
from tlx.training.step_flops import training_flops


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny.write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture
def inits(monkeypatch):
    """The modules whose `init` was traced, one for each time."""
    calls = []
    init = nn.Module.init

    def counted(self, *arguments, **keywords):
        if isinstance(self, ObjectiveModule):
            calls.append(type(self).__name__)
        return init(self, *arguments, **keywords)

    monkeypatch.setattr(nn.Module, "init", counted)
    states._trace_params.cache_clear()
    return calls


def start(config, tokenizer=None):
    """What happens between the command and the first step."""
    config = resolve(config)
    check_devices(config, jax.device_count())
    run = assemble(config, tokenizer)
    training_flops(run.module, abstract_batch(config, run.spec), config.adapt)
    with run.use():
        run.init()
        run.init()
    return run


@pytest.mark.parametrize("objective", tiers(["clm", "plm"], quick=["clm"]))
def test_a_start_traces_the_initialisation_twice(config_file, inits, objective):
    start(flags.load_config(f"{config_file}:{objective}"))
    assert len(inits) == 2  # abstractly, and where it is compiled


def test_a_vocabulary_of_another_size_than_configured_is_traced_too(config_file, inits):
    config = flags.load_config(f"{config_file}:clm")
    tokenizer = make_tokenizer(resolve(config).tokenizer, ())
    config.tokenizer.kind = "sentencepiece"
    config.tokenizer.vocab_size = 2000
    run = start(config, tokenizer)
    assert run.spec.vocab.size < 2000 and len(inits) == 3


@pytest.mark.slow
def test_layouts_of_one_model_share_its_trace(config_file, inits):
    config = resolve(flags.load_config(f"{config_file}:clm"))
    target = parse_target("cpu:8")
    for remat in ("none", "full"):
        changed = flags.load_config(f"{config_file}:clm")
        changed.model.execution.remat = remat
        estimate(resolve(changed), target)
    estimate(config, target)
    assert len(inits) == 1
