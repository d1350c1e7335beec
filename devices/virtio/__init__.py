"""Virtio: ring processor, device core, transports and devices (virtio 1.2 and legacy)."""
