"""What all model families share: loading, LoRA, generation, devices."""
