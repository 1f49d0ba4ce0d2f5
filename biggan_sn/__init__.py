"""Class-conditional GANs at scale, with their spectra under control."""

__version__ = "0.1.0"
