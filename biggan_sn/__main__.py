"""`python -m biggan_sn` is the command `biggan-sn`."""

from biggan_sn.cli import command

if __name__ == "__main__":
    command()
