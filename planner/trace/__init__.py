"""One training step of the libraries' own code on fake tensors: ``Scenario`` in, ``Estimate`` out."""
