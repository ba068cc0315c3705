//! Every family of instructions against another formulation of what the PTX ISA says, on drawn operands.

mod bits;
mod compare;
mod harness;
mod integer;
