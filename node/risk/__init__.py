"""`quorate risk`: what a person wants to know about an account, a surface and the protocol."""
