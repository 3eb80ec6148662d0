"""QLoRA fine-tuning on one GPU: predicted before it starts, proven while it runs, exact when it resumes."""

__version__ = "0.1.0"
