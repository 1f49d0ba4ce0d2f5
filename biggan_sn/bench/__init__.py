"""Speed: of whole steps against one another, and of the control of spectra within one."""
