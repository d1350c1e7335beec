"""Control of a running machine: QMP for programs, the human monitor for people."""
