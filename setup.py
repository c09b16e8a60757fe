"""All of the package's description stands in setup.cfg."""

from setuptools import setup

setup()
