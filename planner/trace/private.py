"""Every private name of torch that a trace needs, each with the versions that have it: an upgrade breaks one file.

Checked against torch 2.9 to 2.13.
"""
