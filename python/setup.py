"""The version is the C library's: it stands in fathom.h alone."""
import pathlib
import re

from setuptools import setup

header = pathlib.Path(__file__).resolve().parent.parent / "include" / "fathom.h"
setup(version=re.search(r'#define FATHOM_VERSION "(.+)"', header.read_text()).group(1))
