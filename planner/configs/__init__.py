"""Reads and writes trainers' configurations: ``check`` plans what a file describes, ``export`` writes what a plan says.

``document`` turns a file into plain data, ``formats`` tells whose it is, that trainer's module reads it into
``understood``, ``checking`` makes a plan of it; ``exporting`` goes the other way and reads back what it wrote.
"""
