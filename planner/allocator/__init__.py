"""The CUDA caching allocator, replayed: what a list of allocations and releases reserves, and the least that it needs.

Torch-free. Lists come from the traced estimator, or from a snapshot that a real device wrote.
"""
