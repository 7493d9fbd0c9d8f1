"""Generated faults: what goes wrong with images, files, folders and messages, and how each case must end."""
