"""Host disk images: `devices.block.open.open_image` and `open_drive`."""
