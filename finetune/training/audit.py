"""What was built is what was described: the first tensor or argument that differs stops the run."""

from __future__ import annotations

import torch

from finetune.errors import AuditError
from finetune.spec import RunSpec, list_tensors
from finetune.training.watched import Watched

HINT = (
    "this is a fault of finetune or of a library version it was not tried with; please report it with the run directory"
)
HOST = torch.device("cpu")
"""Where a base is until it is shared out."""
SAME_LOGITS = 1e-2
"""Share of the largest logit: products in 16 bits may be rounded otherwise, scaled or capped logits differ by more."""


def audit(spec: RunSpec, trainer: Watched) -> None:
    """Compares the trainer with the description. Raises AuditError naming the first difference."""
    whole = spec.config.hardware.shards == 1
    _audit_tensors(spec, trainer.model, spec.device.torch_device if whole else HOST)
    _audit_arguments(spec, trainer)
    if spec.linear_loss:
        _audit_logits(trainer.model)


def _audit_tensors(spec: RunSpec, model: torch.nn.Module, device: torch.device) -> None:
    described = {tensor.name: tensor for tensor in spec.tensors}
    built = {tensor.name: tensor for tensor in list_tensors(model)}
    for name in [*described, *built]:
        if described.get(name) != built.get(name):
            raise AuditError(
                f"{name}: described as {_show(described.get(name))}, built as {_show(built.get(name))}", HINT
            )
    for name, parameter in model.named_parameters():
        if parameter.device != device:
            raise AuditError(f"{name} is on {parameter.device}, described on {device}", HINT)


def _audit_arguments(spec: RunSpec, trainer: Watched) -> None:
    for name, wanted in spec.trainer_fields().items():
        found = getattr(trainer.args, name)
        if found != wanted:
            raise AuditError(f"training argument {name}: described as {wanted!r}, built as {found!r}", HINT)
    attention = trainer.model.config._attn_implementation
    if attention != spec.attention:
        raise AuditError(f"attention kernel: described as {spec.attention!r}, built as {attention!r}", HINT)


@torch.no_grad()
def _audit_logits(model: torch.nn.Module) -> None:
    """The loss of a processor takes logits for what the output layer makes of hidden states, and nothing more."""
    base, was_training = model.get_base_model(), model.training
    model.eval()
    ids = torch.tensor([[0, 1]], device=next(model.parameters()).device)
    head = base.get_output_embeddings()
    hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state.to(head.weight.dtype)
    ours = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    theirs = base(input_ids=ids, use_cache=False).logits.float()
    model.train(was_training)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference <= SAME_LOGITS:
        raise AuditError(
            f"logits: described as what the output layer makes of hidden states, built as others (by {difference:.0e})",
            f"set training.loss_kernel=full_logits; {HINT}",
        )


def _show(tensor: object) -> str:
    if tensor is None:
        return "absent"
    kind = "trained" if tensor.trainable else "frozen"
    return f"{kind} {tensor.dtype} {list(tensor.shape)}"
