"""The roles of the Slicer module, one a file. Qt and MRML live here and nowhere else."""
