//! Every family of instructions against another formulation of what the PTX ISA says, on drawn operands.

mod access;
mod arithmetic;
mod atomic;
mod bits;
mod compare;
mod convert;
mod coverage;
mod exact;
mod float;
mod functions;
mod half;
mod harness;
mod integer;
mod sets;
mod vector;
mod warp;
mod widths;
