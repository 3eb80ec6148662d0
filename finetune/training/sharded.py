"""The frozen base shared out among processes by PyTorch's FSDP2: each keeps its part of every layer's weights, and the
whole of a layer is there while it is computed. Adapters are small and trained: every process has them whole.

A layer's weights are gathered from all processes, in the forward pass and again in the backward pass, so all must make
as many passes. They do not: an evaluation has batches for some, rows are looked for that give no numbers, one process
answers prompts. So each says before a pass that it makes one, and a process that has none to make meanwhile, and waits
for the others at their next meeting, makes a spare one over two tokens, of which nothing is kept.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from finetune.processes import Processes
from finetune.spec import RunSpec
from finetune.spec.recomputation import layers_of
from finetune.spec.skeleton import linear4bit_modules
from finetune.training.randomness import random_state, set_random_state

NONE, FORWARD, BOTH = 0, 1, 2
"""What a process is about to do: no pass, a forward pass, a forward and a backward pass."""


def share_base(spec: RunSpec, model: torch.nn.Module, processes: Processes) -> None:
    """Leaves on the run's device this process's part of the layers of `model` (a PEFT model in host memory) and the
    whole of all else, and keeps processes in step from here on."""
    device, shards = spec.device.torch_device, spec.config.hardware.shards
    mesh = init_device_mesh(device.type, (processes.count // shards, shards), mesh_dim_names=("copies", "shards"))
    decoder, layers = model.get_base_model().base_model, layers_of(model)
    for module in linear4bit_modules(model):
        module.quant_state = module.weight.quant_state  # from where bitsandbytes takes it for a weight that is gathered
    for layer in layers:  # moved one by one: the whole base is never on the card
        layer.to(device)
        trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        fully_shard(layer, mesh=mesh["shards"], ignored_params=trained, reshard_after_forward=True)
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.device != device:
                    _move(tensors, name, tensor, device)
    # It shares nothing out itself: it has layers gathered while those before them compute.
    fully_shard(decoder, mesh=mesh["shards"], ignored_params=set(decoder.parameters()))
    model.get_base_model().hf_device_map = {"": device}
    step = InStep(spec, decoder, processes)
    processes.before_meeting.append(step.finish)
    decoder.register_forward_pre_hook(step.begin, prepend=True)


def _move(tensors: dict[str, Any], name: str, tensor: torch.Tensor, device: torch.device) -> None:
    if isinstance(tensor, torch.nn.Parameter):
        tensor.data = tensor.data.to(device)
    else:
        tensors[name] = tensor.to(device)


class InStep:
    """Keeps processes in step, pass by pass."""

    def __init__(self, spec: RunSpec, decoder: torch.nn.Module, processes: Processes) -> None:
        self.spec, self.decoder, self.processes = spec, decoder, processes
        self._spare = False

    def begin(self, *_: Any) -> None:
        """Called before each forward pass; comes back when it is this process's turn to make it."""
        if self._spare:
            return
        kind = BOTH if torch.is_grad_enabled() else FORWARD
        while (turn := self._turn(kind)) != kind:
            self._pass(turn)

    def finish(self) -> None:
        """Called before processes meet; comes back when none of them has a pass to make."""
        while (turn := self._turn(NONE)) != NONE:
            self._pass(turn)

    def _turn(self, kind: int) -> int:
        """What is made next: the longest of what processes are about to do."""
        found = torch.zeros(self.processes.count, dtype=torch.int64)
        dist.all_gather_into_tensor(found, torch.tensor([kind]))
        return int(found.max())

    def _pass(self, kind: int) -> None:
        """A spare pass, which leaves nothing behind: no gradient, no random number drawn."""
        spec, device = self.spec, self.spec.device.torch_device
        before, self._spare = random_state(device), True
        size = spec.model_config.get_text_config().hidden_size
        inputs = torch.zeros((1, 2, size), dtype=spec.dtype, device=device)
        autocast = torch.autocast(device.type, spec.autocast) if spec.autocast else nullcontext()
        with torch.set_grad_enabled(kind == BOTH), autocast:
            inputs.requires_grad_(kind == BOTH)
            out = self.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
            if kind == BOTH:
                torch.autograd.grad(out.sum(), inputs)
        set_random_state(before, device)
        self._spare = False
