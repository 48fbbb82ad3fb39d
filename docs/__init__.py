"""The tutorial and what was measured; its programs run as modules, such as `python -m docs.scaling`."""
