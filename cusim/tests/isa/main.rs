//! Every family of instructions against another formulation of what the PTX ISA says, on drawn operands.

mod access;
mod arithmetic;
mod atomic;
mod barrier;
mod bits;
mod compare;
mod convert;
mod coverage;
mod exact;
mod float;
mod functions;
mod half;
mod hardware;
mod harness;
mod integer;
mod matrix;
mod sets;
mod spaces;
mod vector;
mod video;
mod warp;
mod widths;
