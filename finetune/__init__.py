"""QLoRA fine-tuning on one GPU: predicted before it starts, proven while it runs, exact when it resumes."""

import logging

__version__ = "0.1.0"

# On a CPU with bfloat16 instructions bitsandbytes says when imported that an optional inference kernel is missing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
