"""What the backbones on Qwen2-VL and Qwen2.5-VL checkpoints share."""
