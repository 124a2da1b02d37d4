"""Record the losses and gradients of trl on the tensors of trl_tensors.py.

    python -m venv trl-1.16 && trl-1.16/bin/pip install trl==1.16.0 torch==2.13.0
    python -m venv trl-1.12 && trl-1.12/bin/pip install trl==1.12.0 torch==2.13.0
    PYTHONPATH=. trl-1.16/bin/python tests/rollouts/record_trl.py tests/rollouts/trl.json
    PYTHONPATH=. trl-1.12/bin/python tests/rollouts/record_trl.py tests/rollouts/trl.json

trl 1.16.0 has DPO, KTO, reward models, GRPO and RLOO, and as experiments ORPO and CPO; 1.12.0 is the last release
with PPO. Its trainers' own methods are called, on objects that have the attributes these read: no model, no data set.
Each entry is {"loss", "gradient"}, the gradient of what trl_tensors.py calls log_probs, rewards, or logits and
values.
"""

import collections
import contextlib
import importlib.metadata
import json
import pathlib
import sys
import types

import numpy as np
import torch

from tests.rollouts import trl_tensors as tensors

VERSION = importlib.metadata.version("trl")


class Accelerator:
    """One process."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction="sum"):
        return value

    def print(self, *args):
        pass

    def unwrap_model(self, model):
        return model

    def accumulate(self, model):
        return contextlib.nullcontext()

    def backward(self, loss):
        loss.backward()


class Stub(types.SimpleNamespace):
    """An object with some attributes of a trainer; the others are None."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def stub(**attributes):
    metrics = {mode: collections.defaultdict(list) for mode in ("train", "eval")}
    given = {"accelerator": Accelerator(), "model": Stub(training=True), "_metrics": metrics}
    defaults = {"_total_train_tokens": 0, "_tp_size": 1, "args": Stub()}
    return Stub(**(given | defaults | attributes))


def result(loss, *leaves):
    loss.backward()
    gradients = [leaf.grad.numpy().astype(float).ravel().tolist() for leaf in leaves]
    return {"loss": float(loss.detach().double()), "gradient": sum(gradients, [])}


def pair_model(log_probs):
    """A model whose outputs are those of trl's fused head."""
    zeros = torch.zeros_like(log_probs)
    outputs = Stub(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0)
    outputs.log_sum_sq_probs = zeros
    return lambda **inputs: outputs


def dpo(loss_types, weights=None, **attributes):
    from trl.trainer.dpo_trainer import DPOTrainer

    values = tensors.pairs()
    log_probs = torch.tensor(values["log_probs"], requires_grad=True)
    mask = torch.tensor(values["mask"]).long()
    # trl drops the first position: nothing predicts it.
    mask = torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)
    chosen, rejected = torch.tensor(values["reference"]).chunk(2)
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    trainer = stub(
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=loss_types,
        loss_weights=weights or [1.0],
        beta=0.1,
        label_smoothing=0.0,
    )
    trainer.__dict__.update(attributes)
    masked = log_probs * mask[:, 1:]
    return result(DPOTrainer._compute_loss(trainer, pair_model(masked), inputs, False), log_probs)


def kto():
    from trl.trainer.kto_trainer import KTOTrainer

    values = tensors.pairs()
    log_probs = torch.tensor(values["log_probs"], requires_grad=True)
    mask = torch.tensor(values["mask"]).long()
    mask = torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.tensor(values["liked"]),
        "ref_logps": torch.tensor(values["reference"]),
        "ref_KL_logps": torch.zeros(len(mask)),
    }
    trainer = stub(
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=0.1,
        desirable_weight=1.0,
        undesirable_weight=1.3,
        _compute_kl_logps=lambda model, batch: torch.tensor(values["mismatched"]),
    )
    masked = log_probs * mask[:, 1:]
    return result(KTOTrainer._compute_loss(trainer, pair_model(masked), inputs, False), log_probs)


def mean_log_probs(values, log_probs):
    mask = torch.tensor(values["mask"])
    return ((log_probs * mask).sum(-1) / mask.sum(-1)).chunk(2)


def orpo():
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    values = tensors.pairs()
    log_probs = torch.tensor(values["log_probs"], requires_grad=True)
    chosen, rejected = mean_log_probs(values, log_probs)
    losses, *_ = ORPOTrainer.odds_ratio_loss(stub(beta=0.1), chosen, rejected)
    return result(-losses.mean(), log_probs)


def simpo():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    values = tensors.pairs()
    log_probs = torch.tensor(values["log_probs"], requires_grad=True)
    chosen, rejected = mean_log_probs(values, log_probs)
    trainer = stub(beta=2.0, alpha=0.0, loss_type="simpo", simpo_gamma=0.5, label_smoothing=0.0)
    losses, *_ = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    return result(losses.mean(), log_probs)


def reward(margin, centring):
    from trl.trainer.reward_trainer import RewardTrainer

    values = tensors.pairs()
    rewards = torch.tensor(values["rewards"], requires_grad=True)
    inputs = {"attention_mask": torch.ones(2, 2)}
    if margin:
        inputs["margin"] = torch.tensor(values["margins"])
    trainer = stub(args=Stub(center_rewards_coefficient=centring))
    model = lambda **kwargs: Stub(logits=rewards[:, None])  # noqa: E731
    return result(RewardTrainer.compute_loss(trainer, model, inputs), rewards)


def sampled(trainer_class, advantage_dims, **attributes):
    values = tensors.answers()
    log_probs = torch.tensor(values["log_probs"], requires_grad=True)
    mask = torch.tensor(values["mask"]).long()
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": torch.tensor(values["advantages"]),
        "old_per_token_logps": torch.tensor(values["old"]),
        "old_logps": (torch.tensor(values["old"]) * mask).sum(1),
        "ref_per_token_logps": torch.tensor(values["reference"]),
        "num_items_in_batch": mask.sum(),
    }
    trainer = stub(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (
            log_probs,
            torch.zeros_like(log_probs),
            None,
        ),
        top_entropy_quantile=1.0,
        importance_sampling_level="token",
        beta=0.0,
        loss_type="grpo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        current_gradient_accumulation_steps=1,
        max_completion_length=tensors.TOKENS,
        args=Stub(steps_per_generation=1),
    )
    trainer.__dict__.update(attributes)
    return result(trainer_class._compute_loss(trainer, None, inputs), log_probs)


def ppo(full, whiten_rewards):
    """One step of trl's training loop, with generation and all models replaced by tensors."""
    from trl.experimental.ppo import ppo_trainer

    values = tensors.policy(full)
    count = len(values["tokens"])
    query = torch.full((count, 2), 3)
    responses = torch.tensor(values["tokens"])
    rows = torch.cat([query, responses], dim=1)
    logits = torch.tensor(values["logits"], requires_grad=True)
    new_values = torch.tensor(values["values"], requires_grad=True)
    losses = []

    def around(part, width):
        """Tensors of the tokens in the positions that the trainer reads them at."""
        before = torch.zeros(count, 1, *part.shape[2:])
        return torch.cat([before, part, before], dim=1)[:, :width]

    def forward(model, query_responses, pad):
        width = rows.shape[1]
        if model == "reference":
            return Stub(logits=around(torch.tensor(values["reference_logits"]), width))
        order = [int((rows == row).all(1).nonzero()[0]) for row in query_responses]
        # A copy: the trainer divides what it gets in place.
        output = Stub(logits=around(logits, width)[order] * 1.0)
        return output, around(new_values, width)[order][..., None]

    def get_reward(model, query_responses, pad, context):
        if model == "values":
            return around(torch.tensor(values["old_values"]), rows.shape[1])[..., None], None, None
        return None, torch.tensor(values["scores"]), None

    temperature = tensors.TEMPERATURE
    old_logits = torch.tensor(values["old_logits"]) / (temperature + 1e-7)
    ppo_trainer.batch_generation = lambda *args: (rows, old_logits)
    ppo_trainer.forward = forward
    ppo_trainer.get_reward = get_reward
    ppo_trainer.unwrap_model_for_generation = lambda *args, **kwargs: contextlib.nullcontext(Stub())
    whiten = ppo_trainer.masked_whiten
    seen = {}

    def masked_whiten(values, mask, shift_mean=True):
        whitened = whiten(values, mask, shift_mean)
        if shift_mean:
            seen["advantages"] = torch.masked_fill(whitened, ~mask, 0)
            seen["before"] = values
        return whitened

    ppo_trainer.masked_whiten = masked_whiten

    class Policy(Stub):
        def train(self):
            pass

    accelerator = Accelerator()
    accelerator.backward = lambda loss: (losses.append(loss.detach()), loss.backward())
    nothing = lambda *args, **kwargs: None  # noqa: E731
    args = Stub(
        **tensors.PPO,
        whiten_rewards=whiten_rewards,
        kl_estimator="k1",
        temperature=temperature,
        response_length=tensors.TOKENS,
        num_ppo_epochs=1,
        num_mini_batches=1,
        gradient_accumulation_steps=1,
        num_total_batches=1,
        total_episodes=count,
        batch_size=count,
        local_batch_size=count,
        local_mini_batch_size=count,
        per_device_train_batch_size=count,
        local_rollout_forward_batch_size=count,
        num_sample_generations=0,
    )
    control = Stub(should_save=False)
    same = lambda *args: control  # noqa: E731
    handler = Stub(on_train_begin=same, on_step_end=same, on_train_end=same)
    trainer = Stub(
        args=args,
        accelerator=accelerator,
        optimizer=Stub(step=nothing, zero_grad=nothing),
        model=Policy(value_model="values"),
        ref_model="reference",
        reward_model="scores",
        processing_class=Stub(pad_token_id=0, eos_token_id=2),
        dataloader=[{"input_ids": query}],
        state=Stub(),
        train_dataset_len=count,
        callback_handler=handler,
        lr_scheduler=Stub(step=nothing, get_last_lr=lambda: [0.0]),
        stop_token_id=2,
        log=lambda metrics: seen.update(metrics=metrics),
    )
    ppo_trainer.PPOTrainer.train(trainer)
    ppo_trainer.masked_whiten = whiten
    names = ("objective/kl", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg")
    gradient = np.concatenate([logits.grad.numpy().ravel(), new_values.grad.numpy().ravel()])
    return {
        "loss": float(losses[0].double()),
        "gradient": gradient.astype(float).tolist(),
        "advantages": seen["advantages"].numpy().astype(float).ravel().tolist(),
        "unwhitened": seen["before"].numpy().astype(float).ravel().tolist(),
        "metrics": {name: seen["metrics"][name] for name in names},
    }


def of_newest():
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    entries = {
        "dpo": dpo(["sigmoid"]),
        "robust": dpo(["robust"], label_smoothing=0.1),
        "ipo": dpo(["ipo"]),
        "hinge": dpo(["hinge"], beta=1.0),
        "dpo and sft": dpo(["sigmoid", "sft"], [1.0, 0.3]),
        "kto": kto(),
        "orpo": orpo(),
        "simpo": simpo(),
        "reward": reward(False, None),
        "reward margin": reward(True, None),
        "reward centring": reward(False, 0.01),
        "rloo": sampled(RLOOTrainer, 1),
    }
    for loss_type in ("grpo", "bnpo", "dapo", "dr_grpo"):
        entries[loss_type] = sampled(GRPOTrainer, 1, loss_type=loss_type, beta=0.04, epsilon_high=0.28)
    entries["gspo"] = sampled(
        GRPOTrainer, 1, importance_sampling_level="sequence", epsilon_low=0.05, epsilon_high=0.08
    )
    return entries


def of_last_with_ppo():
    return {
        "ppo": ppo(True, False),
        "ppo whitened rewards": ppo(True, True),
        "ppo short answers": ppo(False, False),
    }


def rounded(value):
    """Eight significant digits: as many as float32 has."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.9g}")


if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    recorded = json.loads(path.read_text()) if path.exists() else {}
    entries = of_last_with_ppo() if VERSION == "1.12.0" else of_newest()
    recorded[f"trl {VERSION}, torch {torch.__version__}"] = rounded(entries)
    path.write_text(json.dumps(recorded, sort_keys=True) + "\n")
    print(f"{VERSION}: {len(entries)} entries")
