//! What went wrong in a kernel, for people and for programs.

use std::fmt;

/// The kind of a fault; it decides the error code that the driver returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every live allocation or window.
    IllegalAddress,
    /// An access at an address that is no multiple of its size.
    MisalignedAddress,
    /// A read of memory that nothing ever wrote.
    Uninitialized,
    /// Two accesses that nothing orders, at least one a write.
    Race,
    /// An access to the target of an asynchronous copy before it was waited for.
    AsyncPending,
    /// Lanes or warps wait for others that will never come.
    Deadlock,
    /// `trap`, or a failed assertion.
    Trap,
    /// An instruction was used in a way that the PTX ISA leaves undefined.
    Undefined,
    /// A NaN or an infinity was made from finite numbers.
    Arithmetic,
}

/// Where in a kernel an instruction stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Site {
    /// The instruction as it could be written.
    pub instruction: String,
    /// `file:line` of the CUDA source, where the module says (`-lineinfo`).
    pub source: Option<String>,
    /// Where the function that the line is in was inlined, if it was: the innermost call first.
    pub callers: Vec<String>,
    /// Line in the PTX text.
    pub ptx_line: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.instruction)?;
        let Some(source) = &self.source else {
            return write!(f, " at PTX line {}", self.ptx_line);
        };
        write!(f, " at {source}")?;
        for caller in &self.callers {
            write!(f, ", called at {caller}")?;
        }
        write!(f, " (PTX line {})", self.ptx_line)
    }
}

/// A fault of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// What happened, in one sentence.
    pub message: String,
    /// The instruction that faulted.
    pub site: Site,
    /// Block index in the grid.
    pub cta: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Lanes of the warp, one bit each.
    pub lanes: u32,
    /// The address, when one is at fault.
    pub address: Option<u64>,
    /// The other instruction of a race or a copy in flight, with who ran it.
    pub other: Option<(Site, String)>,
    /// More lines, for instance the nearest allocation.
    pub notes: Vec<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        writeln!(
            f,
            "cusim: {:?} in kernel {}: {}",
            self.kind, self.kernel, self.message
        )?;
        writeln!(f, "  in {}", self.site)?;
        write!(
            f,
            "  by CTA ({x}, {y}, {z}), warp {}, {}",
            self.warp,
            Lanes(self.lanes)
        )?;
        if let Some((site, who)) = &self.other {
            write!(f, "\n  against {site}\n  by {who}")?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// A set of lanes in words: `lane 3`, `lanes 0-15, 31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes(
    /// One bit a lane.
    pub u32,
);

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("no lane");
        }
        f.write_str(if self.0.count_ones() == 1 {
            "lane "
        } else {
            "lanes "
        })?;
        let mut lane = 0;
        let mut first = true;
        while lane < 32 {
            let run = (self.0 >> lane).trailing_ones();
            if run == 0 {
                lane += 1;
                continue;
            }
            let separator = if first { "" } else { ", " };
            match run {
                1 => write!(f, "{separator}{lane}")?,
                _ => write!(f, "{separator}{lane}-{}", lane + run - 1)?,
            }
            first = false;
            lane += run;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_named_in_runs() {
        assert_eq!(Lanes(0).to_string(), "no lane");
        assert_eq!(Lanes(1 << 7).to_string(), "lane 7");
        assert_eq!(Lanes(u32::MAX).to_string(), "lanes 0-31");
        assert_eq!(Lanes(0b1110_0101).to_string(), "lanes 0, 2, 5-7");
    }

    #[test]
    fn a_report_names_everything() {
        let site = |instruction: &str| Site {
            instruction: instruction.to_owned(),
            source: Some("a.cu:7".to_owned()),
            callers: vec!["b.cu:9".to_owned()],
            ptx_line: 40,
        };
        let fault = Fault {
            kind: FaultKind::Race,
            kernel: "k".to_owned(),
            message: "a read and a write".to_owned(),
            site: site("ld.shared.u32"),
            cta: [1, 2, 3],
            warp: 4,
            lanes: 3,
            address: Some(16),
            other: Some((site("st.shared.u32"), "warp 5".to_owned())),
            notes: vec!["no barrier is between them".to_owned()],
        };
        assert_eq!(
            fault.to_string(),
            "cusim: Race in kernel k: a read and a write\n  \
               in `ld.shared.u32` at a.cu:7, called at b.cu:9 (PTX line 40)\n  \
               by CTA (1, 2, 3), warp 4, lanes 0-1\n  \
               against `st.shared.u32` at a.cu:7, called at b.cu:9 (PTX line 40)\n  by warp 5\n  \
               note: no barrier is between them"
        );
    }
}
