//! What the lanes of a warp do together (PTX ISA, `shfl.sync`, `vote.sync`, `match.sync`, `redux.sync`).

use super::super::op::{Op, Reg2, Shuffle, ShuffleMode, VoteMode};
use super::{Context, Form, Result};
use crate::ptx::ast::Operand;

impl Context<'_> {
    pub(super) fn shfl(&mut self, form: &Form<'_>) -> Result<Op> {
        let ["sync", mode, "b32"] = form.modifiers[..] else {
            return form.unknown();
        };
        let mode = match mode {
            "up" => ShuffleMode::Up,
            "down" => ShuffleMode::Down,
            "bfly" => ShuffleMode::Bfly,
            "idx" => ShuffleMode::Idx,
            _ => return form.unknown(),
        };
        let (dest, in_range) = match form.operand(0)? {
            Operand::Pair(dest, p) => (dest.as_ref(), self.dest_p(p)?),
            operand => (operand, None),
        };
        let dest = self.dest_w_or_sink(dest)?;
        Ok(Op::Shuffle(Box::new(Shuffle {
            mode,
            dest,
            in_range,
            value: self.w(form.operand(1)?)?,
            lane: self.w(form.operand(2)?)?,
            clamp: self.w(form.operand(3)?)?,
            members: self.w(form.operand(4)?)?,
        })))
    }

    pub(super) fn vote(&mut self, form: &Form<'_>) -> Result<Op> {
        let ["sync", mode, ty] = form.modifiers[..] else {
            return form.unknown();
        };
        let source = self.pred(form.operand(1)?)?;
        let members = self.w(form.operand(2)?)?;
        let to_p = || {
            self.dest_p(form.operand(0)?)?
                .map(Reg2::P)
                .ok_or("a destination".to_owned())
        };
        let (mode, dest) = match (mode, ty) {
            ("all", "pred") => (VoteMode::All, to_p()?),
            ("any", "pred") => (VoteMode::Any, to_p()?),
            ("uni", "pred") => (VoteMode::Uni, to_p()?),
            ("ballot", "b32") => (VoteMode::Ballot, Reg2::W(self.dest_w(form.operand(0)?)?)),
            _ => return form.unknown(),
        };
        Ok(Op::Vote(mode, dest, source, members))
    }

    pub(super) fn match_lanes(&mut self, form: &Form<'_>) -> Result<Op> {
        let [mode @ ("any" | "all"), "sync", ty @ ("b32" | "b64")] = form.modifiers[..] else {
            return form.unknown();
        };
        let (dest, agrees) = match form.operand(0)? {
            Operand::Pair(dest, p) => (dest.as_ref(), self.dest_p(p)?),
            operand => (operand, None),
        };
        let dest = self.dest_w(dest)?;
        let value = self.any(form.operand(1)?, ty == "b64")?;
        let members = self.w(form.operand(2)?)?;
        Ok(Op::Match(dest, agrees, value, members, mode == "all"))
    }

    pub(super) fn redux(&mut self, form: &Form<'_>) -> Result<Op> {
        let ["sync", operation, ty] = form.modifiers[..] else {
            return form.unknown();
        };
        let f: fn(u32, u32) -> u32 = match (operation, ty) {
            ("add", "u32" | "s32") => |a, b| a.wrapping_add(b),
            ("min", "u32") => |a, b| a.min(b),
            ("max", "u32") => |a, b| a.max(b),
            ("min", "s32") => |a, b| (a as i32).min(b as i32) as u32,
            ("max", "s32") => |a, b| (a as i32).max(b as i32) as u32,
            ("and", "b32") => |a, b| a & b,
            ("or", "b32") => |a, b| a | b,
            ("xor", "b32") => |a, b| a ^ b,
            _ => return form.unknown(),
        };
        let dest = self.dest_w(form.operand(0)?)?;
        let value = self.w(form.operand(1)?)?;
        Ok(Op::Redux(f, dest, value, self.w(form.operand(2)?)?))
    }

    /// `elect.sync`: the lowest of the members.
    pub(super) fn elect(&mut self, form: &Form<'_>) -> Result<Op> {
        let (Operand::Pair(dest, p), ["sync"]) = (form.operand(0)?, &form.modifiers[..]) else {
            return form.unknown();
        };
        let dest = self.dest_w_or_sink(dest)?;
        let elected = self.dest_p(p)?;
        Ok(Op::Elect(dest, elected, self.w(form.operand(1)?)?))
    }
}
