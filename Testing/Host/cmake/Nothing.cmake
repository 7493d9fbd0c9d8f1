# Packaging is the application's build system's.
