"""Long runs against real kernels: `python -m tests.soak stress|boots|virtio|all`."""
