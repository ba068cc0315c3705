//! Fused attention, RMSNorm and RoPE for transformer inference.
