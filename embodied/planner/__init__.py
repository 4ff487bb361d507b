"""The planner: a small vision-language model in the Qwen3-VL architecture, its training, and the local runtime."""
