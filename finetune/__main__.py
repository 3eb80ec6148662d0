"""`python -m finetune`, for launchers that start modules: accelerate launch, torchrun."""

from finetune.cli import main

main()
