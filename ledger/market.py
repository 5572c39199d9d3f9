"""What the chain believes about one underlying: index, forwards and volatility slices. Pure."""

from __future__ import annotations

from primitives.codec import I64, U32, U63, Wire


class Slice(Wire):
    """One expiry's forward and SSVI slice, as agreed by the validators.

    Units: forward micro-USD; discount and confidence 1e-6; theta (at-the-money total variance) 1e-12;
    rho 1e-6; psi = theta * phi 1e-9; wings 1e-9: total variance is SSVI's plus wings * k^2, k held as there.
    """

    expiry_ns: U63
    forward_uusd: U63
    discount_ppm: U32
    theta_e12: U63
    rho_e6: I64
    psi_e9: U63
    wings_e9: U63
    confidence_ppm: U32


class UnderlyingMarket(Wire):
    """Index and slices of one underlying; slices in order of expiry, free of arbitrage after the clamps."""

    index_uusd: U63
    slices: tuple[Slice, ...]
