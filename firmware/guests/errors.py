"""The one error type of the guest image builder."""


class GuestError(Exception):
    """A guest could not be made; the text is one line, meant for the user."""
