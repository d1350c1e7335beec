"""Conventional PCI: functions with their configuration space, MSI-X, and the bus (PCI 3.0)."""
