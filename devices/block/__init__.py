"""Host disk images: `open_image` and `open_drive`."""

from devices.block.config import DriveConfig
from devices.block.image import Image
from devices.block.open import open_drive, open_image

__all__ = ["DriveConfig", "Image", "open_drive", "open_image"]
