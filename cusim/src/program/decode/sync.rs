//! Barriers and fences (PTX ISA, "Parallel Synchronization and Communication Instructions").

use super::super::op::{
    Address, Barrier, BarrierKind, MBarrier, MBarrierKind, Op, Reduction, Reg, Reg2, Space,
};
use super::{Context, Form, Result};

impl Context<'_> {
    pub(super) fn barrier(&mut self, form: &Form<'_>) -> Result<Op> {
        if form.has("warp") {
            return Ok(Op::WarpBarrier(self.w(form.operand(0)?)?));
        }
        let o = form.operands();
        let (dest, o) = if form.has("red") {
            let (dest, rest) = o.split_first().ok_or("operands are missing")?;
            (Some(dest), rest)
        } else {
            (None, o)
        };
        let (kind, o) = match (dest, form.has("arrive"), o) {
            (Some(dest), false, [o @ .., source]) => {
                let source = self.pred(source)?;
                let (reduction, dest) = match (form.has("popc"), form.has("and")) {
                    (true, _) => (Reduction::Count, Reg2::W(self.dest_w(dest)?)),
                    (_, is_and) => {
                        let dest = self.dest_p(dest)?.ok_or("the destination is missing")?;
                        let reduction = if is_and {
                            Reduction::And
                        } else {
                            Reduction::Or
                        };
                        (reduction, Reg2::P(dest))
                    }
                };
                (BarrierKind::Reduce(reduction, dest, source), o)
            }
            (None, true, o) => (BarrierKind::Arrive, o),
            (None, false, o) => (BarrierKind::Sync, o),
            _ => return form.unknown(),
        };
        let (id, count) = match o {
            [id] if kind != BarrierKind::Arrive => (id, None),
            [id, count] => (id, Some(self.w(count)?)),
            _ => return form.unknown(),
        };
        Ok(Op::Barrier(Box::new(Barrier {
            id: self.w(id)?,
            count,
            kind,
            // `bar` is `barrier.aligned`.
            aligned: form.opcode == "bar" || form.has("aligned"),
        })))
    }

    /// Fences order the accesses around them; those to other proxies have nothing to order here.
    pub(super) fn fence(&mut self, form: &Form<'_>) -> Result<Op> {
        Ok(if form.has("proxy") {
            Op::Nothing
        } else {
            Op::Fence(!form.has("cta"))
        })
    }

    pub(super) fn mbarrier(&mut self, form: &Form<'_>) -> Result<Op> {
        let o = form.operands();
        let named = form.has("shared") || form.has("shared::cta");
        let mut barrier = MBarrier {
            kind: MBarrierKind::Init,
            space: if named { Space::Shared } else { Space::Generic },
            address: Address {
                base: None,
                offset: 0,
            },
            dest: None,
            holds: None,
            operand: None,
        };
        match (form.modifiers.first().copied(), o) {
            (Some("init"), [address, count]) => {
                barrier.address = self.address(address)?;
                barrier.operand = Some(Reg::W(self.w(count)?));
            }
            (Some("inval"), [address]) => {
                barrier.kind = MBarrierKind::Invalidate;
                barrier.address = self.address(address)?;
            }
            (Some(name @ ("arrive" | "arrive_drop")), [state, address, count @ ..]) => {
                barrier.kind = MBarrierKind::Arrive {
                    drop: name == "arrive_drop",
                    no_complete: form.has("noComplete"),
                };
                barrier.dest = self.dest_or_sink(state)?;
                barrier.address = self.address(address)?;
                barrier.operand = match count {
                    [] => None,
                    [count] => Some(Reg::W(self.w(count)?)),
                    _ => return form.unknown(),
                };
            }
            // A suspended wait may return at any time; this one returns at once.
            (Some("test_wait" | "try_wait"), [holds, address, phase, ..]) => {
                barrier.holds = self.dest_p(holds)?;
                barrier.address = self.address(address)?;
                if form.has("parity") {
                    barrier.kind = MBarrierKind::TestParity;
                    barrier.operand = Some(Reg::W(self.w(phase)?));
                } else {
                    barrier.kind = MBarrierKind::Test;
                    barrier.operand = Some(Reg::D(self.d(phase)?));
                }
            }
            (Some("pending_count"), [count, state]) => {
                let (d, a) = (self.dest_w(count)?, self.d(state)?);
                return Ok(Op::Narrow(
                    super::super::simd::each1!(|a| a as u32 & 0xf_ffff),
                    d,
                    a,
                ));
            }
            _ => return form.unknown(),
        }
        Ok(Op::MBarrier(Box::new(barrier)))
    }

    /// `cp.async.mbarrier.arrive`
    pub(super) fn arrive_after_copies(&mut self, form: &Form<'_>) -> Result<Op> {
        let [address] = form.operands() else {
            return form.unknown();
        };
        let named = form.has("shared") || form.has("shared::cta");
        Ok(Op::MBarrier(Box::new(MBarrier {
            kind: MBarrierKind::AfterCopies {
                no_increment: form.has("noinc"),
            },
            space: if named { Space::Shared } else { Space::Generic },
            address: self.address(address)?,
            dest: None,
            holds: None,
            operand: None,
        })))
    }
}
