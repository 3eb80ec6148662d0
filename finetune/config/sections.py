"""The configuration's sections and keys. Under each field stands one sentence with its unit; the same
sentences are the descriptions in `finetune schema`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from finetune.config.sizes import parse_size
from finetune.regular_file import require_name


def _named(text: str) -> str:
    require_name(text)
    return text


Name = Annotated[str, AfterValidator(_named)]
"""A file, a directory or a hub id."""
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Positive = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(gt=0, le=2**20)]
"""Rows, tokens and ranks: a product of three is still a number of bytes that torch can count."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
MaskRule = Literal[
    "no_trained_token",
    "untrained_stop",
    "doubled_bos",
    "truncated_answer",
    "empty_turn",
    "roles_out_of_order",
    "template_drops_turn",
    "template_refuses_row",
    "train_row_in_eval",
]
"""Rules of the mask contract (finetune/data/contract.py says what each means)."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, strings are not coerced to numbers."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class ModelConfig(Section):
    """Which base model, and how it computes."""

    name_or_path: Name
    """Hub id, directory, or `.gguf` file of a causal language model."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the default branch where absent."""
    attention: Literal["auto", "sdpa", "varlen", "flash_attention_2", "eager"] = "auto"
    """Attention kernel; auto takes PyTorch's scaled_dot_product_attention (sdpa), and for packed rows its kernel by
    variable length (varlen), which computes each row by itself."""
    dtype: Dtype = "auto"
    """Type of the weights that are not quantised; auto takes what the device computes natively."""
    lean_norms: bool = True
    """RMS norms keep what they read as it is for the backward pass, and no copy of it in float32."""
    lean_gates: bool = True
    """Gated feed-forward parts keep gate and up for the backward pass, and not the gate's activation beside them."""
    fp32_unquantized: bool = False
    """Casts embeddings, norms and lm_head to float32 (PEFT's k-bit preparation); costs memory."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """random builds the architecture with seeded random weights: for measuring, never for use."""
    trust_remote_code: bool = False
    """Lets the model repository run Python code of its own on this machine."""


class QuantizationConfig(Section):
    """How the frozen base weights are stored."""

    type: Literal["nf4", "none"] = "nf4"
    """nf4 stores linear weights in 4 bits (QLoRA, Dettmers et al. 2023); none keeps `model.dtype`."""
    double_quant: bool = True
    """Quantises the constants of each block of 64 weights too: 0.0159 instead of 0.0625 bytes a weight."""
    compute_dtype: Dtype = "auto"
    """Type that 4-bit weights are expanded to for a matrix product; auto takes what the device does natively."""


class LoraSection(Section):
    """The trained adapter (LoRA, Hu et al. 2021); names follow PEFT."""

    r: Size = 16
    """Rank of the update matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """`lora_alpha`: the update is scaled by alpha / r, or alpha / sqrt(r) with `use_rslora`."""
    dropout: Fraction = 0.0
    """Dropout probability on the adapter's input."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ]
    """Names of the linear layers that get an adapter, or all-linear."""
    use_rslora: bool = False
    """Scales by alpha / sqrt(r) (rank-stabilised LoRA, Kalajdzievski 2023)."""
    use_dora: bool = False
    """Trains magnitude and direction apart (DoRA, Liu et al. 2024)."""
    init: Literal["default", "gaussian"] = "default"
    """Initial values; default is PEFT's: A uniform (Kaiming), B zero, so that the update starts at zero."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the adapter's weights; small updates are lost in bfloat16, which keeps 8 bits of each number."""


class DataSource(Section):
    """One of several data sets in a mixture."""

    path: Name
    """File (.jsonl, .json, .csv, .parquet) or hub id."""
    split: str | None = None
    """Split of a hub data set; train for `data.train`, and test or validation for `data.eval`, where absent."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often a row is taken: 0.5 takes a seeded half of the rows, 2 takes each twice."""


class DataConfig(Section):
    """What is learned from, and which of its tokens count."""

    train: Name | list[DataSource]
    """File or hub id to train on, or a list of sources with weights."""
    eval: Name | list[DataSource] | None = None
    """File or hub id held out for evaluation; null turns evaluation off unless `eval_fraction` is set."""
    eval_fraction: Fraction = 0.0
    """Share of the training rows held out for evaluation, chosen by seed; needs `eval: null`."""
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "prompt"] = (
        "auto"
    )
    """Shape of a row; auto finds it by looking and says which it found."""
    max_length: Size = 2048
    """Longest sequence in tokens; longer rows are cut at the end, counted and reported."""
    packing: bool = False
    """Fills sequences of `max_length` with several rows that do not see each other."""
    streaming: bool = False
    """Reads `train`, files of type .jsonl, while the run trains, so that they need not fit into memory; for sft, and
    needs `training.max_steps`."""
    loss_on: Literal["assistant", "completion", "all"] = "assistant"
    """Trained tokens: every assistant turn, the last one only, or all tokens."""
    chat_template: Name | None = None
    """Path of a Jinja chat template that replaces the tokenizer's own."""
    on_truncation: Literal["cut", "drop"] = "cut"
    """What becomes of a row longer than `max_length`: its end is cut off, or the row is left out; both are counted."""
    max_truncated: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest share of a split's rows whose trained text `max_length` may cut; beyond it a run is refused."""
    allow: list[MaskRule] = []
    """Rules of the mask contract whose breaches are counted and said, but not refused; a row that cannot be trained on
    at all is left out."""

    @property
    def holds_out(self) -> bool:
        """Whether there are rows to evaluate on."""
        return self.eval is not None or self.eval_fraction > 0

    @field_validator("allow", mode="before")
    @classmethod
    def _known_rules(cls, names: object) -> object:
        known = get_args(MaskRule)
        for name in names if isinstance(names, list) else []:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise ValueError(f"unknown rule {name!r}; {hint}")
        return names

    @model_validator(mode="after")
    def _streams_whole_files(self) -> DataConfig:
        if not self.streaming:
            return self
        if self.eval_fraction > 0:
            raise ValueError(
                f"data.eval_fraction={self.eval_fraction} holds rows out of all that there are, which "
                "data.streaming=true never sees together: name a file of others as data.eval"
            )
        for source in self.train if isinstance(self.train, list) else []:
            if source.weight != 1:
                raise ValueError(
                    f"data.train: weight {source.weight:g} of {source.path}: data.streaming=true takes every row once "
                    "in a pass; write a file with the rows that the weight would take"
                )
        return self

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> DataConfig:
        if self.eval is not None and self.eval_fraction > 0:
            raise ValueError(
                f"data.eval={self.eval!r} and data.eval_fraction={self.eval_fraction} both hold rows out: keep one"
            )
        return self


class TrainingConfig(Section):
    """How it learns."""

    method: Literal["sft", "dpo", "rloo", "grpo"] = "sft"
    """sft learns answers; dpo (Rafailov et al. 2023) which of two is preferred; rloo (Ahmadian et al. 2024) and grpo
    (Shao et al. 2024) from rewards of the model's own completions."""
    beta: Annotated[float, Field(ge=0)] | None = None
    """Pull towards the base model: DPO's beta, or the weight of the KL divergence (rloo, grpo); null takes 0.1 for dpo,
    0.05 for rloo and 0.04 for grpo, their papers' own; at 0 no reference is computed and the divergence is unknown."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training rows; `max_steps` wins where both are set."""
    max_steps: Positive | None = None
    """Optimiser updates after which training ends."""
    micro_batch_size: Size = 1
    """Rows (or packs) in one forward pass."""
    gradient_accumulation_steps: Size = 16
    """Forward passes in one optimiser update; effective batch = micro_batch_size x this."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate, before `lr_scaling`."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Scales the learning rate by effective batch / `reference_batch_size`, or its square root."""
    reference_batch_size: Positive | None = None
    """Effective batch for which `learning_rate` was chosen; needed by `lr_scaling`."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_ratio: Fraction = 0.03
    """Share of all updates over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay (AdamW) on the adapter."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this global L2 norm where they exceed it."""
    optimizer: Literal["paged_adamw_8bit", "paged_adamw_32bit", "adamw_8bit", "adamw_torch", "sgd"] = "paged_adamw_8bit"
    """Optimiser; paged state moves to host memory when the card is full, 8-bit state is a quarter of 32-bit."""
    autocast: Dtype | Literal["none"] = "auto"
    """Mixed-precision type; auto takes the compute type where that has 16 bits, else none."""
    gradient_checkpointing: bool | Positive | Literal["auto"] = "auto"
    """Recomputes layers in the backward pass instead of keeping their activations: all, none, or so many from the first
    on; auto as few as the memory allows, by preflight, with room to spare."""
    activation_offloading: bool = False
    """Keeps checkpoints in host memory until the backward pass; CUDA only."""
    feed_forward_chunk: Positive | None = None
    """Tokens of a row whose feed-forward part is computed at once, and once more in the backward pass: long rows take
    less memory; null computes all at once."""
    compile: bool = False
    """Compiles each layer by torch.compile: updates take less time on a card, after a cold start that the report tells.
    Preflight prices layers that are not compiled."""
    loss_kernel: Literal["fused_linear", "full_logits"] = "fused_linear"
    """fused_linear never holds the logits of a whole batch; full_logits does."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of adapter values, data order, dropout and held-out rows."""
    save_steps: Positive | Literal["auto"] | None = "auto"
    """Updates between checkpoints; auto saves every ten minutes, more seldom where saving would take more than 1 % of
    the time; null only where the run is stopped."""
    save_total_limit: Positive = 2
    """Checkpoints kept; the oldest go first, but for the one of the best held-out figure."""
    eval_steps: Positive | None = None
    """Updates between evaluations; null evaluates before and after training."""
    logging_steps: Positive = 1
    """Updates between lines in metrics.jsonl."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Where metrics also go, besides metrics.jsonl."""
    sample_answers: Annotated[int, Field(ge=0)] = 3
    """Held-out prompts answered before and after training, for the report."""
    sample_max_new_tokens: Positive = 64
    """Longest of those answers, in tokens."""
    noise_scale: bool = True
    """Measures the gradient noise scale where gradients are accumulated: how large a batch still pays."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What follows a loss or gradient that is no number: the run stops, or the update is taken without the rows that
    cause it, and left out where none does alone; both name the rows."""
    rehearsal: bool = True
    """Runs the largest batches and one checkpoint save before training, measures them and puts everything back."""

    @field_validator("autocast")
    @classmethod
    def _no_float32(cls, value: str) -> str:
        if value == "float32":
            raise ValueError("autocast to float32 does nothing: use none")
        return value

    @model_validator(mode="after")
    def _scaling_has_reference(self) -> TrainingConfig:
        if self.lr_scaling != "none" and self.reference_batch_size is None:
            raise ValueError(f"training.lr_scaling={self.lr_scaling} needs training.reference_batch_size")
        return self

    @property
    def online(self) -> bool:
        """Whether it learns from completions that the model samples while it trains."""
        return self.method in ("rloo", "grpo")

    @property
    def pull(self) -> float:
        """`beta`, the method's own where it is null."""
        return {"dpo": 0.1, "rloo": 0.05, "grpo": 0.04}.get(self.method, 0.0) if self.beta is None else self.beta

    @property
    def warms_up(self) -> bool:
        """Whether the learning rate rises from zero: the constant schedule has no warm-up, whatever its ratio."""
        return self.warmup_ratio > 0 and self.lr_scheduler != "constant"

    @model_validator(mode="after")
    def _offloads_checkpoints(self) -> TrainingConfig:
        some = not isinstance(self.gradient_checkpointing, (bool, str))
        if self.activation_offloading and some:
            raise ValueError(
                f"training.gradient_checkpointing={self.gradient_checkpointing} keeps the activations of other layers, "
                "and training.activation_offloading would move them all: set the first to true"
            )
        return self

    @model_validator(mode="after")
    def _compiles_whole_layers(self) -> TrainingConfig:
        if not self.compile:
            return self
        for key, off in {"feed_forward_chunk": "null", "activation_offloading": "false"}.items():
            if getattr(self, key):
                raise ValueError(f"training.compile=true does not go with training.{key}: set that to {off}")
        if not self.rehearsal:
            raise ValueError("training.compile=true needs training.rehearsal, where layers are compiled and measured")
        return self

    @property
    def recomputes(self) -> bool:
        """Whether layers are computed again in the backward pass; so they are until preflight has decided an auto."""
        return self.gradient_checkpointing is not False

    def recomputed(self, layers: int) -> int:
        """How many of a model's `layers` are."""
        asked = self.gradient_checkpointing
        if isinstance(asked, (bool, str)):
            return layers if asked else 0
        return asked

    @property
    def effective_batch_size(self) -> int:
        """Rows (or packs) in one optimiser update."""
        return self.micro_batch_size * self.gradient_accumulation_steps


class HardwareConfig(Section):
    """What it runs on."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes a CUDA device where there is one; cuda refuses to run without."""
    memory: str = "auto"
    """Device memory the run may use, such as 24GiB; auto takes the whole device."""
    expandable_segments: bool = True
    """Lets torch's allocator grow its segments on a card instead of adding new ones: less memory lost between them."""
    shards: Positive = 1
    """Processes that share the frozen base out among them (FSDP2), so that each keeps that part of its layers."""

    @field_validator("memory")
    @classmethod
    def _is_size(cls, value: str) -> str:
        if value != "auto":
            parse_size(value)
        return value
