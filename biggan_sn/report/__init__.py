"""A run as one static page of HTML that needs nothing but a browser, and no network.

reading -> sections (overview, pictures, charts, spectra, sweep, events, settings) -> page; markup,
scales and curves are what they are written with.
"""
