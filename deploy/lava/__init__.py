"""The Lava backend: runs a fixed-point graph on the bit-accurate CPU models of Lava, in a child process."""
