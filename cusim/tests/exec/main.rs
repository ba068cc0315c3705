//! Execution of PTX: what instructions compute, how lanes and warps go together, and what is found out.

mod arithmetic;
mod blocks;
mod control;
mod faults;
mod fused;
mod machine;
mod matrix;
mod memory;
mod numeric;
