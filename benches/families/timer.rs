//! Times single launches by events of the stream.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaSlice, CudaStream};

use crate::cases::Result;

/// More than the L2 of any device holds.
const FLUSHED: usize = 256 << 20;

const WARM_UP: usize = 5;
const SAMPLES: usize = 50;

/// Seconds of a launch.
pub struct Time {
    pub median: f64,
    pub least: f64,
}

pub struct Timer {
    pub stream: Arc<CudaStream>,
    flushed: CudaSlice<u8>,
}

impl Timer {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            stream: stream.clone(),
            flushed: stream.alloc_zeros(FLUSHED)?,
        })
    }

    /// The time between events right before and after a launch. Before each, memory larger than L2 is written, so
    /// that nothing is left there; meanwhile the host gets ahead of the device.
    pub fn time(&mut self, mut launch: impl FnMut() -> Result<()>) -> Result<Time> {
        for _ in 0..WARM_UP {
            launch()?;
        }
        let mut events = Vec::new();
        for _ in 0..SAMPLES {
            self.stream.memset_zeros(&mut self.flushed)?;
            let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
            launch()?;
            events.push((start, self.stream.record_event(Some(CU_EVENT_DEFAULT))?));
        }
        let mut seconds = Vec::new();
        for (start, end) in &events {
            seconds.push(f64::from(start.elapsed_ms(end)?) / 1e3);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Time {
            median: seconds[SAMPLES / 2],
            least: seconds[0],
        })
    }
}
