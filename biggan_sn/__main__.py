"""`python -m biggan_sn` is the command `biggan-sn`."""

from biggan_sn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
