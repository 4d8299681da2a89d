"""Tests of scripts that need a package: without it they are skipped, and fail in CI."""
import importlib.util
import os
import unittest


def needs(package):
    if importlib.util.find_spec(package):
        return lambda item: item
    if os.environ.get("CI") == "true":
        raise SystemExit(f"the package {package} is missing: scripts/setup.sh installs it")
    return unittest.skip(f"needs the package {package}: scripts/setup.sh installs it")
