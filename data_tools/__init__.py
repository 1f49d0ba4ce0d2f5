"""Programs that make and check data. They import the package, never the reverse."""
