"""Weights of vision models in the layouts of other libraries, brought into timm's names.

`checkpoint` reads a file or folder, `layouts` knows whose layout it is, one file per family converts it.
"""
