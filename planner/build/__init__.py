"""The one builder of real models, methods and optimizers: for the trace on fake tensors, and for measuring on a device.

Nothing here knows how bytes are counted. Whoever counts says where tensors live (``Place``) and gets a ``Job``: the
model as the trainer prepares it, its optimizer, and one optimizer step that tells when its phases begin.
"""
