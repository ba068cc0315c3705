//! Every family of instructions against another formulation of what the PTX ISA says, on drawn operands.

mod bits;
mod compare;
mod convert;
mod exact;
mod float;
mod harness;
mod integer;
