"""Reads and writes trainers' configurations: ``check`` plans what a file describes, ``export`` writes what a plan says.

``document`` turns a file into plain data (``script`` parses Python, ``references`` follows ``${...}``), ``formats``
tells whose it is, that trainer's module reads it into ``understood``, ``combining`` lays companions beside it, and
``checking`` makes a plan of it. ``wording`` tells complaints by the file's keys, ``spelled`` tells ways out by them.
``exporting`` goes the other way into what ``written`` describes, and reads it back.

Of each trainer, TRAINER reads, TRAINER_keys says what its keys mean in ours (``keys`` is how), TRAINER_write writes.
What Hugging Face's trainers share stands in ``model_arguments``, ``transformers`` and ``hf_write``; ``accelerate`` and
``deepspeed`` lie beside any of them, and ``deepspeed_shipped`` has the files that trainers bring along.
"""
