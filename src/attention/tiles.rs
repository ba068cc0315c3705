//! Tile table of the prefill kernels.
