"""Light client: proofs of the state that need no node, and who follows the epochs."""
