"""Host side of network devices: user-mode NAT, sockets, tap."""
