"""What an operator asks of a home and of its machine: `quorate config` and `quorate doctor`. Disk, sockets."""
