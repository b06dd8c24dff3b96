"""Packages of the distribution; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# `stages` is too general a name to install beside other packages.
setup(
    packages=[*find_packages(include=["capt_core*"]), "capt_stages"],
    package_dir={"capt_stages": "stages"},
)
