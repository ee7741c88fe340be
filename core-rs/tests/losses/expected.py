"""Writes expected.json: losses of TRL's GRPOTrainer._compute_loss on given log-probabilities, and their slopes by autograd.

    python expected.py > expected.json        (trl 1.16, torch)

k1 and k2, which TRL lacks, are added to its loss without KL as plain torch. `weights` are TRL's normalisers written out.
TRL's epsilon_high of cispo is the bound itself, ours is what the bound exceeds 1 by.
"""

import json
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl.trainer.grpo_trainer import GRPOTrainer

NEW = [[-1.2, -0.3, -2.5, -0.9], [-0.7, -1.9, -0.4, -3.1], [-2.2, -1.4, -0.8, -0.6]]
OLD = [[-1.3, -0.7, -2.4, -0.5], [-1.6, -1.8, -0.9, -3.6], [-1.9, -0.9, -0.6, -0.6]]
REFERENCE = [[-1.0, -0.6, -2.0, -1.1], [-0.9, -1.5, -0.5, -2.7], [-2.0, -1.6, -0.9, -0.7]]
MASK = [[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
# one value a token, as turn-level credit has them
ADVANTAGES = [[0.8, 0.8, 1.1, 1.1], [-1.2, -1.2, -1.2, -0.9], [-0.7, -0.7, 0.3, 0.3]]
ENTROPY = [[0.9, 0.4, 1.7, 1.1], [0.8, 1.3, 0.5, 2.1], [1.6, 1.2, 0.7, 0.6]]
WIDTH = 5

BASE = {"surrogate": "clip", "importance_sampling_level": "token", "clip_low": 0.2, "clip_high": 0.28, "delta": None}
BASE |= {"kl_coef": 0.1, "kl_estimator": "k3", "kl_ratio_correction": False, "entropy_coef": 0.0, "temperature": 1.0}
CISPO = {"surrogate": "cispo", "clip_high": 0.4, "kl_coef": 0.0}
CASES = [
    ("grpo", "grpo", {}),
    ("grpo, corrected KL", "grpo", {"kl_ratio_correction": True}),
    ("dr_grpo", "dr_grpo", {}),
    ("bnpo", "bnpo", {"kl_coef": 0.0}),
    ("dapo", "dapo", {}),
    ("dual clip", "dapo", {"delta": 1.5}),
    ("gspo", "grpo", {"importance_sampling_level": "sequence", "kl_coef": 0.0}),
    ("gspo, narrow", "grpo", {"importance_sampling_level": "sequence", "clip_low": 0.003, "clip_high": 0.004}),
    ("gspo, corrected KL", "grpo", {"importance_sampling_level": "sequence", "kl_ratio_correction": True}),
    ("gspo, dual clip", "grpo", {"importance_sampling_level": "sequence", "delta": 1.3}),
    ("cispo", "cispo", CISPO),
    ("cispo, KL", "cispo", CISPO | {"kl_coef": 0.1}),
    ("cispo, sequence", "cispo", CISPO | {"importance_sampling_level": "sequence"}),
    ("k1, corrected", "dapo", {"kl_estimator": "k1", "kl_ratio_correction": True}),
    ("k2", "grpo", {"kl_estimator": "k2"}),
    ("k2, corrected", "grpo", {"kl_estimator": "k2", "kl_ratio_correction": True}),
]


def weights_of(loss_type, mask):
    if loss_type == "grpo":
        return mask / mask.sum(-1, keepdim=True) / len(mask)
    if loss_type == "dr_grpo":
        return mask / (len(mask) * WIDTH)
    return mask / mask.sum()


def trl_loss(loss_type, loss, new, mask):
    """TRL's own method, on a trainer that is nothing but the fields it reads."""
    in_trl = loss["kl_estimator"] == "k3"
    metrics = {"train": defaultdict(list)}
    arguments = dict(delta=loss["delta"], use_bias_correction_kl=loss["kl_ratio_correction"], steps_per_generation=1)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(**arguments),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=loss["importance_sampling_level"],
        beta=loss["kl_coef"] if in_trl else 0.0,
        loss_type=loss_type,
        epsilon_low=loss["clip_low"],
        epsilon_high=1 + loss["clip_high"] if loss_type == "cispo" else loss["clip_high"],
        use_vllm=False,
        max_completion_length=WIDTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics=metrics,
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.tensor(ENTROPY), None),
    )
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": torch.tensor(OLD),
        "ref_per_token_logps": torch.tensor(REFERENCE),
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs), metrics["train"]


def ratios(loss, new, mask):
    log_ratio = new - torch.tensor(OLD)
    if loss["importance_sampling_level"] == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)).expand_as(log_ratio)
    return log_ratio.exp()


def kl(loss, new, ratio):
    d = torch.tensor(REFERENCE) - new
    value = {"k1": -d, "k2": d * d / 2}[loss["kl_estimator"]]
    return ratio * value if loss["kl_ratio_correction"] else value


def case(name, loss_type, changes):
    loss = BASE | changes
    mask = torch.tensor(MASK, dtype=torch.float32)
    new = torch.tensor(NEW, requires_grad=True)
    weights = weights_of(loss_type, mask)
    value, _ = trl_loss(loss_type, loss, new, mask)
    ratio = ratios(loss, new, mask)
    if loss["kl_estimator"] != "k3":
        value = value + (weights * loss["kl_coef"] * kl(loss, new, ratio)).sum()
    value.backward()
    advantages = torch.tensor(ADVANTAGES)
    share = lambda flags: ((flags * mask).sum() / mask.sum()).item()
    low = share((ratio < 1 - loss["clip_low"]) & (advantages < 0)) if loss["surrogate"] == "clip" else 0.0
    high = share((ratio > 1 + loss["clip_high"]) & (advantages > 0))
    return {
        "name": name,
        "loss": loss,
        "weights": rounded(weights),
        "value": round(value.item(), 7),
        "slopes": rounded(new.grad),
        "clipped_low": round(low, 7),
        "clipped_high": round(high, 7),
    }


def rounded(tensor):
    return [[round(x, 7) for x in row] for row in tensor.tolist()]


def row(name, values):
    return f'  "{name}": {json.dumps(values)}'


given = dict(new=NEW, old=OLD, reference=REFERENCE, advantages=ADVANTAGES, mask=MASK, entropy=ENTROPY)
cases = ",\n".join("    " + json.dumps(case(*one)) for one in CASES)
print("{\n" + ",\n".join(row(*one) for one in given.items()) + ',\n  "cases": [\n' + cases + "\n  ]\n}")
