from .devices import Runner, TorchRunner, bf16_is_fast, generator, pick_device, pick_dtype, versions

__all__ = [
    "Runner",
    "TorchRunner",
    "bf16_is_fast",
    "generator",
    "pick_device",
    "pick_dtype",
    "versions",
]
