"""Stake behind the validators: bonding, rewards, penalties and the sets of coming epochs. Pure."""
