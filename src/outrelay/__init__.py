"""OutRelay connects services across networks that allow no inbound port."""

__version__ = "0.1.0"
