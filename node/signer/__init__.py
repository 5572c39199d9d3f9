"""The remote signer: a process of its own that holds the consensus keys and remembers what they signed."""
