"""What a run is at, on standard error, with the seconds since it began."""

import time

import click

_began = time.monotonic()


def tell(text: str) -> None:
    click.echo(f"{time.monotonic() - _began:5.0f} s  {text}", err=True)
