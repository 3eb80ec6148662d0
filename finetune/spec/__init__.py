"""One description of a run, read by everything else.

`describe(config)` builds the model on the meta device (every tensor, no weights) and returns a `RunSpec`,
which alone produces the configurations of bitsandbytes, PEFT and TRL. What is estimated is thus what is run.

    device.py        the machine: what it computes natively, how much memory it has
    source.py        where the model comes from: hub, directory or GGUF; its configuration and tokenizer
    gguf.py          a GGUF file turned into a dense directory, once
    architecture.py  what a model's configuration must say before anything is built from it
    skeleton.py      the quantised model on the meta device
    adapter.py       the adapter on it
    varlen.py        attention of packed rows, each by itself, without a mask
    norms.py         norms that keep no copy in float32
    gates.py         gated feed-forward parts that keep gate and up alone
    feed_forward.py  the feed-forward part of a layer a few tokens at a time
    loss.py          the loss of a run; linear_loss.py: on a processor, from hidden states
    run_spec.py      RunSpec, and its projections into the libraries' own configurations
"""

from finetune.spec.adapter import attach_adapter
from finetune.spec.device import Device, find_device
from finetune.spec.run_spec import ParameterCounts, RunSpec, describe, resolve
from finetune.spec.skeleton import TensorInfo, build_skeleton, list_tensors
from finetune.spec.source import ModelSource, load_tokenizer, locate_model

__all__ = [
    "Device",
    "ModelSource",
    "ParameterCounts",
    "RunSpec",
    "TensorInfo",
    "attach_adapter",
    "build_skeleton",
    "describe",
    "find_device",
    "list_tensors",
    "load_tokenizer",
    "locate_model",
    "resolve",
]
